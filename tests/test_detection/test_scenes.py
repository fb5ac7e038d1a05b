"""Extraction in tiles, over images of all kinds, by several processes, and resumed, with a real (untrained) RTMDet."""

import json

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from galr_mm.detection import ProposalSet
from galr_mm.detection.detector import MMDetDetector
from galr_mm.detection.extraction import Settings, extract_proposals
from galr_mm.imagery import read_image
from galr_mm.utils.io import file_lock
from tests.helpers import DETECTOR_CONFIG as CONFIG
from tests.helpers import run_tool
from tests.test_imagery.test_tiles import image

tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
pytestmark = pytest.mark.detect


@pytest.fixture(scope='module')
def folder(tmp_path_factory, mini):
    """A large scene of mini images, whose cells are the tiles, among small, odd and broken images."""
    folder = tmp_path_factory.mktemp('scenes')
    cells = [mmcv.imread(str(mini / f'images/train_000{n}.jpg')) for n in range(4)]
    scene = np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)])
    Image.fromarray(scene[..., ::-1]).save(folder / 'scene.png')
    tifffile.imwrite(folder / 'scene.tif', scene[..., ::-1], tile=(128, 128))
    for kind in ('gray', 'alpha', '16 bit'):
        tifffile.imwrite(folder / f'{kind}.tif', image(kind, (64, 64)))
    Image.fromarray(cells[0][..., ::-1]).save(folder / 'cell.png')
    (folder / 'broken.png').write_bytes((folder / 'scene.png').read_bytes()[:2000])
    (folder / 'empty.jpg').write_bytes(b'')
    return folder


def test_a_deep_scene_gives_the_same_whole_and_as_an_array(folder, detector):
    adapter = MMDetDetector(detector, CONFIG)
    path = folder / '11 bit.tif'
    tifffile.imwrite(path, image('16 bit', (64, 64)) >> 5, tile=(16, 16))
    of_file, of_array = adapter.detect([path, read_image(path)])
    of_tiles = adapter.detect_in_tiles(path, tile=64, overlap=0, merge_iou=1.0)
    path.unlink()
    assert len(of_file) > 0
    assert of_file.to_rows() == of_array.to_rows()
    torch.testing.assert_close(of_tiles.scores, of_file.scores[: len(of_tiles)], atol=1e-3, rtol=0)


SETTINGS = Settings(score_thr=0.3, max_per_image=400, tile=256, overlap=0, merge_iou=1.0)


def test_tiles_find_what_single_images_show(folder, detector):
    adapter = MMDetDetector(detector, CONFIG)
    whole = adapter.detect_in_tiles(folder / 'scene.png', tile=256, overlap=0, merge_iou=1.0, batch_size=3)
    single = adapter.detect([folder / 'cell.png'])[0]
    assert whole.image_size == (512, 512)
    inside = (whole.boxes[:, 2:] <= 256).all(1) & (whole.boxes[:, :2] < 250).all(1)
    expected = single.boxes[(single.boxes[:, 2:] <= 256).all(1) & (single.boxes[:, :2] < 250).all(1)]
    assert len(expected) > 5
    nearest = (whole.boxes[inside][:, None] - expected[None]).abs().amax(-1).amin(0)
    assert nearest.max() < 1  # a batch of another size rounds otherwise


def test_overlapping_tiles_are_merged_within_each_class(folder, detector):
    adapter = MMDetDetector(detector, CONFIG)
    merged = adapter.detect_in_tiles(folder / 'scene.png', 256, 128, merge_iou=0.5, batch_size=4)
    assert len(merged) < len(adapter.detect_in_tiles(folder / 'scene.png', 256, 128, merge_iou=1.0, batch_size=4))
    boxes, labels = merged.boxes, merged.labels
    low, high = (
        torch.maximum(boxes[:, None, :2], boxes[None, :, :2]),
        torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]),
    )
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    iou = overlap / (area[:, None] + area - overlap)
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    assert iou[same].max() <= 0.5 + 1e-6


def test_a_folder_of_all_kinds(folder, detector, tmp_path):
    out = tmp_path / 'p.json'
    content = extract_proposals(CONFIG, detector, folder, out, settings=SETTINGS, num_workers=0)
    assert sorted(content['info']['unreadable']) == ['broken.png', 'empty.jpg']
    sizes = {image['file_name']: (image['height'], image['width']) for image in content['images']}
    assert sizes['scene.tif'] == sizes['scene.png'] == (512, 512)
    assert sizes['gray.tif'] == (64, 64)
    found = ProposalSet(out)
    for name in ('scene.png', 'scene.tif'):
        assert (found.get(name).boxes > 256).any()
    np.testing.assert_allclose(found.get('scene.png').boxes, found.get('scene.tif').boxes)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(tile=100, overlap=100), 'overlap is 100'),
        (dict(tile=0), 'tile of 0'),
        (dict(score_thr=2), 'score_thr is 2'),
        (dict(max_per_image=0), 'max_per_image 0'),
        (dict(merge_iou=0), 'merge_iou 0'),
    ],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        extract_proposals(CONFIG, 'x.pth', tmp_path, tmp_path / 'p.json', settings=Settings(**settings))


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_find_the_same(folder, detector, tmp_path, mini):
    one, two = tmp_path / 'one.json', tmp_path / 'two.json'
    options = ['--score-thr', '0.3', '--num-workers', '0', '--tile', '256']
    run_tool('tools/extract_proposals.py', CONFIG, detector, mini / 'images', '--out', one, *options)
    arguments = [CONFIG, detector, mini / 'images', '--out', two, *options, '--launcher', 'pytorch']
    run_tool('tools/extract_proposals.py', *arguments, processes=2)
    one, two = (json.loads(path.read_text()) for path in (one, two))
    assert [i['file_name'] for i in one['images']] == [i['file_name'] for i in two['images']]
    a, b = ProposalSet(tmp_path / 'one.json'), ProposalSet(tmp_path / 'two.json')
    for entry in one['images']:
        np.testing.assert_allclose(a.get(entry['file_name']).scores, b.get(entry['file_name']).scores, atol=1e-3)
    assert not list(tmp_path.glob('*.partial*'))


def test_what_other_processes_left_is_gone_on_with(detector, mini, tmp_path):
    out = tmp_path / 'p.json'
    settings = Settings(score_thr=0.3)
    whole = extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'w.json', settings=settings, num_workers=0)
    header = {key: whole['info'][key] for key in ('detector', *Settings._fields, 'classes')}
    header['images'] = str((mini / 'images').resolve())
    lines = [
        json.dumps({'file_name': f'train_000{n}.jpg', 'height': 256, 'width': 256, 'objects': [[1, 2, 3, 4, 0.9, n]]})
        for n in range(4)
    ]
    (tmp_path / 'p.json.partial.jsonl').write_text('\n'.join([json.dumps(header), lines[0], '']))
    (tmp_path / 'p.json.partial-1.jsonl').write_text('\n'.join([json.dumps(header), *lines[1:3], lines[3][:10]]))
    extract_proposals(CONFIG, detector, mini / 'images', out, settings=settings, num_workers=0)
    found = ProposalSet(out)
    for n in range(3):
        assert found.get(f'train_000{n}.jpg').labels.tolist() == [n]
    assert len(found.get('train_0003.jpg').labels) != 1
    assert not list(tmp_path.glob('*.partial*'))


@pytest.mark.parametrize('left', ['.partial.jsonl', '.partial-1.jsonl'])
@pytest.mark.parametrize(('key', 'value'), [('images', '/elsewhere'), ('score_thr', 0.6)])
def test_runs_do_not_mix(detector, mini, tmp_path, left, key, value):
    """Neither with an unfinished run on other images of the same names, nor with what one process left of it."""
    record = {'file_name': 'train_0000.jpg', 'height': 9, 'width': 9, 'objects': []}
    (tmp_path / f'p.json{left}').write_text(json.dumps({key: value}) + '\n' + json.dumps(record) + '\n')
    with pytest.raises(FileExistsError, match=rf'p.json{left} was started with another .*{key}.*delete it'):
        extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'p.json', num_workers=0)
    assert (tmp_path / f'p.json{left}').exists()


def test_one_run_at_a_time(detector, mini, tmp_path):
    with file_lock(tmp_path / 'p.json'), pytest.raises(BlockingIOError, match='another run is writing'):
        extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'p.json', num_workers=0)
    assert not list(tmp_path.iterdir())


def test_objects_do_not_depend_on_what_else_is_in_the_batch(detector, mini):
    """Without padding in the pipeline, images of several sizes would be padded to the largest of their batch."""
    cfg = Config.fromfile(CONFIG)
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Pad' not in step['type']]
    cfg.test_dataloader.dataset.pipeline = steps
    adapter = MMDetDetector(detector, cfg.to_dict())
    image = mmcv.imread(str(mini / 'images/test_0000.jpg'))
    images = [image[:height] for height in (256, 120, 256, 200)]
    together = adapter.detect(images)
    for single, found in zip(images, together, strict=True):
        alone = adapter.detect([single])[0]
        assert len(alone) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-3, rtol=0)
    assert [found.image_size for found in together] == [(256, 256), (120, 256), (256, 256), (200, 256)]
