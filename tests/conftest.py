import os
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from tests.helpers import ROOT, SMALL, run_tool


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
