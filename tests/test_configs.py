"""Every shipped config parses, names things with their scope, and builds as far as it can without data."""

from pathlib import Path

import pytest
from mmengine.config import Config

from galr_mm.datasets import Vocabulary
from galr_mm.registry import MODELS
from tests.conftest import ROOT

RETRIEVAL = sorted((ROOT / 'configs').glob('*.py'))
DETECTION = sorted((ROOT / 'configs/detection').glob('*.py'))
# unscoped names that live in mmengine's and mmcv's own (root) registries
ROOT_NAMES = {
    'LoadImageFromFile',
    'RandomResize',
    'OptimWrapper',
    'AdamW',
    'Adam',
    'DefaultSampler',
    'default_collate',
    'Visualizer',
    'LocalVisBackend',
    'LogProcessor',
    'EpochBasedTrainLoop',
    'ValLoop',
    'TestLoop',
    'IterTimerHook',
    'LoggerHook',
    'ParamSchedulerHook',
    'CheckpointHook',
    'DistSamplerSeedHook',
    'LinearLR',
    'CosineAnnealingLR',
    'StepLR',
    'BN',
    'SiLU',
    'nms',
}


def names(node):
    """Type names, but for those inside a part that says its own scope."""
    if isinstance(node, dict):
        if '_scope_' in node:
            yield node['type']
            return
        if isinstance(node.get('type'), str):
            yield node['type']
        for value in node.values():
            yield from names(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from names(value)


@pytest.mark.parametrize('path', RETRIEVAL + DETECTION, ids=lambda p: p.stem)
def test_names_are_scoped(path):
    cfg = Config.fromfile(path)
    assert {name for name in names(cfg.to_dict()) if '.' not in name} <= ROOT_NAMES


@pytest.mark.parametrize('path', RETRIEVAL, ids=lambda p: p.stem)
def test_retrieval_configs(path):
    cfg = Config.fromfile(path)
    assert 'rerank' not in cfg
    assert cfg.default_hooks.checkpoint.save_best == 'mR'
    assert cfg.default_hooks.checkpoint.rule == 'greater'
    assert cfg.val_dataloader.dataset.split == 'val'
    assert cfg.test_dataloader.dataset.split == 'test'
    model = cfg.model
    if 'vocabulary' in model.text_encoder:
        assert Path(model.text_encoder.vocabulary).name == 'vocabulary.json'
        model.text_encoder.vocabulary = Vocabulary.from_captions(['a plane', 'two ships'])
    assert MODELS.build(model).loss_module is not None


@pytest.mark.parametrize('path', DETECTION, ids=lambda p: p.stem)
def test_detection_configs(path):
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    head = model.roi_head.bbox_head if hasattr(model, 'roi_head') else model.bbox_head
    assert head.num_classes == len(cfg.train_dataloader.dataset.metainfo.classes)
    loaded = cfg.test_dataloader.dataset.metainfo
    assert loaded == cfg.train_dataloader.dataset.metainfo
