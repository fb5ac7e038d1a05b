import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(train=24, val=8, test=11)  # 11 is not divisible by two processes


def run_tool(*args, check=True, env=None, timeout=560, cwd=ROOT, **options):
    """Run a tool of the project as a user would, on one thread so that tests do not fight for cores."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **(env or {})}
    command = [sys.executable, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, **options)
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(autouse=True)
def keep_default_scope():
    """mmengine's default scope is global; a test that sets one does not change the next."""
    before = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(scope='session')
def mini(tmp_path_factory):
    """A small copy of the generated data set."""
    folder = tmp_path_factory.mktemp('mini')
    counts = [f'--{split}={count}' for split, count in SMALL.items()]
    run_tool('tools/dataset_converters/make_mini_dataset.py', '--out', folder, *counts)
    return folder


@pytest.fixture(scope='session')
def mini_config(mini, tmp_path_factory):
    """configs/galr_mini.py on the small copy: its annotated boxes as proposals, 64 px, two epochs."""
    path = tmp_path_factory.mktemp('configs') / 'small.py'
    path.write_text(f"""
_base_ = '{ROOT}/configs/galr_mini.py'
data_root = '{mini}/'
pipeline = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(64, 64)),
    dict(type='galr_mm.PackRetrievalInputs'),
]
def_ = dict(data_root=data_root, pipeline=pipeline)
train_dataloader = dict(batch_size=20, num_workers=0, dataset=dict(proposal_file='instances_train.json', **def_))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(proposal_file='instances_val.json', **def_))
test_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(proposal_file='instances_test.json', **def_))
model = dict(text_encoder=dict(vocabulary=data_root + 'vocabulary.json', hidden_dim=64, word_dim=32))
default_hooks = dict(logger=dict(interval=1))
train_cfg = dict(max_epochs=2)
""")
    return path


@pytest.fixture(scope='session')
def data_root():
    """Folder of the real data sets, laid out as docs/datasets.md says."""
    root = os.environ.get('GALR_DATA_ROOT')
    if not root:
        pytest.skip('GALR_DATA_ROOT is not set: no real data sets here')
    return Path(root)


def shrink_clip(cfg, mini, work_dir):
    """Let a CLIP config run in seconds: a tiny CLIP with random weights, a few images. Gives the splits it has."""
    tiny = dict(model_name=str(ROOT / 'tests/data/clip/tiny-vit.json'), pretrained=None)
    for tower in [cfg.model] if 'model_name' in cfg.model else [cfg.model.backbone, cfg.model.text_encoder]:
        assert set(tiny) <= set(tower)
        tower.update(tiny)
    splits = [split for split in ('train', 'val', 'test') if cfg[f'{split}_dataloader'] is not None]
    for split in splits:
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=5, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=f'{mini}/', ann_file='dataset_mini.json')
        loader.dataset.update(proposal_file=f'instances_{split}.json')
        loader.dataset.pipeline[0].model_name = tiny['model_name']
        if split == 'train':
            loader.dataset.indices = 10
            cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(work_dir)
    return splits
