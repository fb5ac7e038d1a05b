"""configs/galr_rsitmd.py as it stands, on RSITMD's real caption lists; its images are drawn stand-ins."""

import json
import re

import cv2
import numpy as np
import pytest

from galr_mm.datasets.captions import read_precomp
from tests.helpers import run_tool

CONFIG = 'configs/galr_rsitmd.py'


@pytest.fixture(scope='module')
def root(real_data, tmp_path_factory):
    lists = real_data('rsitmd/rsitmd_precomp/train_caps.txt').parent
    root = tmp_path_factory.mktemp('data')
    images = root / 'rsitmd/images'
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for record in read_precomp(lists):
        image = cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (64, 64))
        cv2.imwrite(str(images / record['filename']), image)
    out = root / 'rsitmd/dataset_rsitmd.json'
    done = run_tool('tools/dataset_converters/convert_captions.py', lists, '--images', images, '--out', out)
    assert '3430 train, 857 val, 452 test' in done.stdout
    return root


@pytest.mark.slow
def test_train_and_test(root, tmp_path):
    env = {'GALR_DATA_ROOT': str(root)}
    few = ['train_dataloader.dataset.indices=40', 'train_dataloader.batch_size=20', 'val_dataloader.dataset.indices=20']
    workers = [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
    done = run_tool(
        'tools/train.py',
        CONFIG,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'train_cfg.max_epochs=1',
        *few,
        *workers,
        env=env,
    )
    log = done.stdout + done.stderr
    assert log.count('No proposals') == 1
    assert re.search(r'train: no proposals at .*rsitmd/proposals.json.*tools/extract_proposals.py', log)
    (checkpoint,) = tmp_path.glob('best_mR_*.pth')
    done = run_tool(
        'tools/test.py', CONFIG, checkpoint, '--work-dir', tmp_path, '--cfg-options', 'rerank=mr', *workers, env=env
    )
    log = done.stdout + done.stderr
    assert '452 images, 2260 captions' in log
    assert re.search(r'^mr +\d', log, re.M)


def test_verify(root):
    content = json.loads((root / 'rsitmd/dataset_rsitmd.json').read_text())
    assert content['val'] == {'drawn_from': 'train', 'fraction': 0.2, 'seed': 0}
    done = run_tool('tools/dataset_converters/verify_dataset.py', CONFIG, env={'GALR_DATA_ROOT': str(root)})
    assert '0 problems' in done.stdout
