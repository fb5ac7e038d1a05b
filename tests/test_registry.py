"""Everything builds by scoped name, in a fresh process, whatever the default scope."""

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS, MODELS

import galr_mm.registry  # noqa: F401  # makes mmengine look for our configs
from galr_mm.models import GaLR
from tests.helpers import ROOT, run_tool

SCRIPT = """
import sys
from mmengine.registry import DATASETS, EVALUATOR, FUNCTIONS, HOOKS, METRICS, MODELS, TRANSFORMS, init_default_scope
init_default_scope(sys.argv[1])
folder = sys.argv[2]
backbone = dict(type='mmpretrain.ResNet', depth=18, out_indices=(0, 1, 2, 3))
text = dict(type='galr_mm.BiGRUEncoder', vocabulary=folder + '/vocabulary.json')
pipeline = [dict(type='galr_mm.LoadImageWithProposals'), dict(type='Resize', scale=(64, 64)),
            dict(type='galr_mm.RandomRotate'), dict(type='galr_mm.RandomCrop', crop_size=32),
            dict(type='galr_mm.PackRetrievalInputs')]
built = [
    MODELS.build(dict(type='galr_mm.MIDF')),
    MODELS.build(dict(type='galr_mm.GaLR', backbone=backbone, visual=dict(type='galr_mm.MVSA'), text_encoder=text,
                      local=dict(type='galr_mm.LocalBranch', drea=dict(type='galr_mm.DREA', num_classes=6),
                                 gcn=dict(type='galr_mm.GCN')),
                      fusion=dict(type='galr_mm.MIDF'))),
    HOOKS.build(dict(type='galr_mm.RerankHook')),
    EVALUATOR.build(dict(type='galr_mm.RetrievalEvaluator', metrics=[dict(type='galr_mm.RecallAtK')])),
    METRICS.build(dict(type='galr_mm.RecallAtK')),
    FUNCTIONS.build(dict(type='galr_mm.MultivariateRerank', k=5)),
    DATASETS.build(dict(type='galr_mm.ImageTextDataset', data_root=folder, ann_file='dataset_mini.json', split='train',
                        pipeline=pipeline)),
    TRANSFORMS.build(dict(type='galr_mm.RandomCrop', crop_size=8)),
]
assert built[-2][0]['inputs'].shape == (3, 32, 32)
print(','.join(type(b).__name__ for b in built))
"""


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmdet'])
def test_scoped_names(scope, mini):
    done = run_tool('-c', SCRIPT, scope, mini, fresh=scope == 'mmengine')
    names = 'MIDF,GaLR,RerankHook,RetrievalEvaluator,RecallAtK,MultivariateRerank,ImageTextDataset,RandomCrop'
    assert done.stdout.strip().splitlines()[-1] == names


def test_import_is_light():
    heavy = ['torch_geometric', 'mmdet', 'open_clip', 'mmpretrain']
    code = f'import sys, galr_mm, galr_mm.registry; print([m for m in {heavy} if m in sys.modules])'
    assert run_tool('-c', code, fresh=True).stdout.strip() == '[]'


def test_configs_by_the_name_of_the_package(tmp_path, mini):
    """From another project's config: `_base_ = 'galr_mm::...'`."""
    (tmp_path / 'mine.py').write_text(f"""
_base_ = 'galr_mm::_base_/../galr_mini.py'
model = dict(fusion=dict(mode='sum'), text_encoder=dict(vocabulary='{mini}/vocabulary.json'))
""")
    cfg, ours = Config.fromfile(tmp_path / 'mine.py'), Config.fromfile(ROOT / 'configs/galr_mini.py')
    assert cfg.test_dataloader.dataset.ann_file == ours.test_dataloader.dataset.ann_file
    assert isinstance(MODELS.build(cfg.model), GaLR)
    for name, hook in cfg.default_hooks.items():
        assert HOOKS.build(hook), name
    assert get_config('galr_mm::_base_/../galr_mini.py').to_dict() == ours.to_dict()
    assert get_config('galr_mm::detection/rtmdet-tiny_nwpu.py').model.type
    with pytest.raises((OSError, ValueError), match='nowhere'):
        get_config('galr_mm::clip/nowhere.py')
