"""tools/extract_proposals.py with a real (untrained) RTMDet over real files."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from pycocotools.coco import COCO

from galr_mm.detection import ProposalSet
from galr_mm.detection.detector import MMDetDetector
from galr_mm.detection.extraction import Settings, extract_proposals
from galr_mm.imagery import list_images
from tests.helpers import DETECTOR_CONFIG as CONFIG
from tests.helpers import ROOT, SMALL, environment, run_tool

pytestmark = pytest.mark.detect
COUNT = sum(SMALL.values())


@pytest.fixture(scope='module')
def whole(detector, mini, tmp_path_factory):
    out = tmp_path_factory.mktemp('out') / 'proposals.json'
    content = extract_proposals(
        CONFIG, detector, mini / 'dataset_mini.json', out, settings=Settings(score_thr=0.3, max_per_image=10)
    )
    return out, content


def test_coco_json(whole, mini):
    out, content = whole
    coco = COCO(str(out))
    assert len(coco.imgs) == COUNT
    assert {c['name'] for c in coco.cats.values()} >= {'airplane', 'vehicle'}
    assert len(coco.anns) > COUNT
    for annotation in coco.anns.values():
        x, y, w, h = annotation['bbox']
        assert 0 <= x <= x + w <= 256.01
        assert 0 <= y <= y + h <= 256.01
        assert annotation['score'] >= 0.3
        assert min(w, h) > 0
    assert max(len(coco.getAnnIds(i)) for i in coco.imgs) <= 10
    assert content['info']['dropped']['beyond the 10 highest-scoring of their image'] > 0
    assert not out.with_name(out.name + '.partial.jsonl').exists()


def test_boxes_are_those_of_mmdets_own_inference(whole, detector, mini):
    from mmdet.apis import inference_detector, init_detector

    out, _ = whole
    proposals = ProposalSet(out)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = init_detector(str(CONFIG), str(detector), device='cpu')
        for name in ('test_0000.jpg', 'train_0003.jpg'):
            expected = inference_detector(model, str(mini / 'images' / name)).pred_instances
            found = proposals.get(name)
            count = len(found.scores)
            assert count > 0
            np.testing.assert_allclose(found.scores, expected.scores[:count].numpy(), atol=1e-3)
            np.testing.assert_allclose(found.boxes, expected.bboxes[:count].numpy().clip(0, 256), atol=0.1)


@pytest.mark.slow
def test_killed_run_goes_on(whole, detector, mini, tmp_path):
    out = tmp_path / 'proposals.json'
    command = [sys.executable, 'tools/extract_proposals.py', CONFIG, detector, mini / 'images', '--out', out]
    command = [
        *map(str, command),
        '--score-thr',
        '0.3',
        '--max-per-image',
        '10',
        '--batch-size',
        '1',
        '--num-workers',
        '0',
    ]
    env = environment()
    partial = out.with_name(out.name + '.partial.jsonl')
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=env)
    deadline = time.monotonic() + 200
    while not (partial.exists() and partial.read_text().count('\n') > 6):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    lines = partial.read_text().splitlines(keepends=True)
    partial.write_text(''.join(lines[:-1]) + lines[-1][:20])  # as if cut while writing the last line
    done = run_tool(*command[1:])
    after = int(re.search(rf'resuming after (\d+) of {COUNT}', done.stdout).group(1))
    assert after == len(lines) - 2  # header and cut line
    assert re.search(r'written to .*; \d+ objects left out: .*\d+ beyond the 10 highest-scoring', done.stdout)
    ours, theirs = ProposalSet(out), ProposalSet(whole[0])
    assert len(ours) == COUNT
    for name in list_images(mini / 'images')[1]:
        np.testing.assert_allclose(ours.get(name).scores, theirs.get(name).scores, atol=1e-3)

    again = run_tool(*command[1:], check=False)
    assert again.returncode != 0
    assert '--overwrite' in again.stderr


def test_other_settings_do_not_mix(detector, mini, tmp_path):
    out = tmp_path / 'proposals.json'
    partial = out.with_name(out.name + '.partial.jsonl')
    partial.write_text(json.dumps({'score_thr': 0.9}) + '\n')
    with pytest.raises(FileExistsError, match='score_thr'):
        extract_proposals(CONFIG, detector, mini / 'images', out)
    assert partial.exists()


def test_weights_of_another_detector_are_refused(mini, tmp_path):
    torch.save({'state_dict': torch.nn.Linear(3, 3).state_dict(), 'meta': {}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='a.pth does not fit the detector'):
        extract_proposals(CONFIG, tmp_path / 'a.pth', mini / 'images', tmp_path / 'p.json')


def test_broken_image_among_good_ones(detector, mini, tmp_path):
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    for name, target in (('a.jpg', 'a.jpg'), ('c.jpg', 'sub/c.jpg')):
        (folder / target).write_bytes((mini / 'images/train_0000.jpg').read_bytes() + name.encode())
    (folder / 'b.jpg').write_bytes(b'no image')
    out = tmp_path / 'p.json'
    done = run_tool('tools/extract_proposals.py', CONFIG, detector, folder, '--out', out, check=False)
    assert done.returncode != 0
    assert 'could not be read: b.jpg' in done.stderr
    content = json.loads(out.read_text())
    assert [i['file_name'] for i in content['images']] == ['a.jpg', 'sub/c.jpg']
    assert list(content['info']['unreadable']) == ['b.jpg']


def test_no_global_scope_is_left(detector):
    DefaultScope.get_instance('before_detector', scope_name='mmengine')
    MMDetDetector(detector, CONFIG)
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'
