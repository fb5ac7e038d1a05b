import copy
import math
import sys
import weakref

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from galr_mm.models import DualEncoder, RetrievalTTAModel
from galr_mm.models.fusion.midf import MODES
from galr_mm.models.retrievers.dual_encoder import pair_ids
from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph
from galr_mm.text import Vocabulary
from tests.helpers import ROOT

VOCABULARY = Vocabulary.from_captions(['a white plane near two ships'])
BACKBONE = dict(type='mmpretrain.ResNet', depth=18, out_indices=(0, 1, 2, 3))
TEXT = dict(type='galr_mm.BiGRUEncoder', vocabulary=VOCABULARY, word_dim=16, hidden_dim=16)


LOCAL = dict(
    type='galr_mm.LocalBranch',
    drea=dict(type='galr_mm.DREA', num_classes=3, num_nodes=4),
    gcn=dict(type='galr_mm.GCN'),
)
ONE_BRANCH = {
    'global': dict(local=None),
    'local': dict(backbone=None, visual=None),
}


def galr(mode='paper', **options):
    torch.manual_seed(0)
    config = dict(
        type='galr_mm.GaLR',
        backbone=BACKBONE,
        visual=dict(type='galr_mm.MVSA'),
        local=LOCAL,
        fusion=dict(type='galr_mm.MIDF', mode=mode),
        text_encoder=TEXT,
        loss=dict(type='galr_mm.ContrastiveLoss'),
    )
    return MODELS.build(config | options)


def dual_encoder():
    return MODELS.build(
        dict(type='galr_mm.DualEncoder', backbone=BACKBONE, visual=dict(type='galr_mm.GlobalPool'), text_encoder=TEXT,
             loss=dict(type='galr_mm.TripletLoss'))
    )  # fmt: skip


def batch(count=3, texts=1, boxes=2):
    torch.manual_seed(1)
    samples = []
    for i in range(count):
        sample = DataSample(metainfo=dict(image_id=i, img_shape=(64, 64)))
        captions = [f'a plane {"near " * (i + t)}ships' for t in range(texts)]
        ids = list(range(i * texts, (i + 1) * texts))
        sample.text, sample.text_id = (captions, ids) if texts != 1 else (captions[0], ids[0])
        sample.gt_text_id, sample.gt_image_id = ids, [i] * texts
        if boxes is not None:
            corner = torch.rand(boxes, 2) * 30
            sample.proposals = InstanceData(
                bboxes=torch.cat([corner, corner + 10 + i], 1), scores=torch.rand(boxes), labels=torch.arange(boxes)
            )
        samples.append(sample)
    return torch.randn(count, 3, 64, 64), samples


@pytest.mark.parametrize('mode', MODES)
def test_every_mode_trains(mode):
    model = galr(mode)
    losses = model(*batch(), mode='loss')
    losses['loss_contrastive'].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize('branch', ONE_BRANCH)
def test_one_branch_alone(branch):
    """Trains every weight it has; what is not wanted is not built, and the image or its objects alone decide."""
    model = galr(**ONE_BRANCH[branch])
    images, samples = batch()
    model(images, samples, mode='loss')['loss_contrastive'].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    parts = {name.split('.')[0] for name, _ in model.named_parameters()}
    towers = {'global': {'backbone', 'visual'}, 'local': {'local'}}[branch]
    assert parts == towers | {'text_encoder'} | {p for p in parts if p.startswith('loss')}
    model.eval()
    feat = model.extract_feat(images, samples)['image_feat']
    torch.testing.assert_close(feat.norm(dim=-1), torch.ones(3))
    other_image = model.extract_feat(images.flip(0), samples)['image_feat']
    other_objects = model.extract_feat(images, batch()[1][::-1])['image_feat']
    assert torch.allclose(other_image, feat) == (branch == 'local')
    assert torch.allclose(other_objects, feat) == (branch == 'global')


def test_proposals_are_perturbed_in_training_only():
    model = galr(local=LOCAL | dict(proposal_dropout=0.5, box_jitter=0.1))
    images, samples = batch(8, boxes=3)
    before = [sample.proposals.bboxes.clone() for sample in samples]
    plain = galr().local.build_graph(images, samples)
    drawn = [model.train().local.build_graph(images, samples) for _ in range(2)]
    assert not torch.equal(drawn[0].boxes, drawn[1].boxes)
    for graph in drawn:
        assert 0 < graph.mask.sum() < plain.mask.sum() == 24  # some objects are left out
    torch.testing.assert_close(model.eval().local.build_graph(images, samples).boxes, plain.boxes)
    for sample, boxes in zip(samples, before, strict=True):
        assert torch.equal(sample.proposals.bboxes, boxes)
    torch.manual_seed(0)
    model.train().local.box_jitter, model.local.proposal_dropout = 0.01, 0.0
    moved = model.local.build_graph(images, samples)
    assert torch.equal(moved.mask, plain.mask)
    assert 0 < (moved.boxes - plain.boxes).abs().max() < 0.02  # of boxes of a sixth of the image at most
    for wrong in (dict(proposal_dropout=1.0), dict(box_jitter=-0.1), dict(box_jitter=math.nan)):
        with pytest.raises(ValueError, match=r'proposal_dropout is .*, box_jitter'):
            galr(local=LOCAL | wrong)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(backbone=None), 'give both, or None for both'),
        (dict(visual=None), 'give both, or None for both'),
        (dict(fusion=None), 'two branches need a fusion'),
        (dict(backbone=None, visual=None, local=None, fusion=None), 'needs a global branch'),
        (ONE_BRANCH['local'] | dict(local=LOCAL | dict(roi=dict(type='galr_mm.RoINodes'))), 'roi needs the maps'),
    ],
)
def test_branches_that_do_not_fit_together(options, match):
    with pytest.raises(ValueError, match=match):
        galr(**options)


def test_checkpoints_of_before_the_local_branch_was_a_module():
    """Their ``gcn.*`` and ``roi.*`` are ``local.gcn.*`` and ``local.roi.*``, whoever loads them."""
    local = LOCAL | dict(roi=dict(type='galr_mm.RoINodes'))
    model = galr(local=local)
    expected = model.state_dict()
    old = {key.removeprefix('local.'): value for key, value in expected.items()}
    assert {'gcn.out.weight', 'roi.fc.weight'} <= set(old)
    for load in (lambda m, s: m.load_state_dict(s), lambda m, s: load_state_dict(m, s, strict=True)):
        torch.manual_seed(1)
        other = galr(local=local)
        other.local.gcn.out.weight.data.zero_()
        other.local.roi.fc.weight.data.zero_()
        load(other, dict(old))
        for key, value in other.state_dict().items():
            assert torch.equal(value, expected[key]), key
    wrapped = torch.nn.ModuleDict(dict(model=galr(local=local)))  # as an EMA or a wrapper of processes holds it
    wrapped.load_state_dict({f'model.{key}': value for key, value in old.items()})
    assert torch.equal(wrapped['model'].local.gcn.out.weight, model.local.gcn.out.weight)


def test_several_captions_an_image():
    """Captions of any count go to the loss with the rows of their images; each image is encoded once."""
    model = dual_encoder().eval()
    images, samples = batch(texts=3, boxes=None)
    for sample, count in zip(samples, (3, 1, 2), strict=True):
        sample.text = sample.text[:count]
        sample.caption_id = [10 + len(text) for text in sample.text]
    samples[1].set_field(samples[1].text[0], 'text')  # one caption need not be a list
    samples[1].set_field(samples[1].caption_id[0], 'caption_id')
    image_ids, caption_ids, owner = pair_ids(samples)
    assert owner.tolist() == [0, 0, 0, 1, 2, 2]
    assert len(image_ids.unique()) == 3
    words = [sample.text if isinstance(sample.text, list) else [sample.text] for sample in samples]
    words = [caption for captions in words for caption in captions]
    assert [[a == b for b in words] for a in words] == (caption_ids[:, None] == caption_ids).tolist()
    feats = model(images, samples, mode='tensor')
    assert len(feats['text_feat']) == 6
    expected = model.loss_module(feats['image_feat'], feats['text_feat'], image_ids, caption_ids, owner)
    assert model(images, samples, mode='loss') == expected
    for sample in samples:
        del sample.caption_id
    assert torch.equal(pair_ids(samples)[1][:, None] == pair_ids(samples)[1], caption_ids[:, None] == caption_ids)


def large_batch_model(dropout, **options):
    """BatchNorm fixed, so that what a forward pass sees of the batch makes no difference."""
    torch.manual_seed(0)
    config = dict(
        type='galr_mm.DualEncoder',
        backbone=BACKBONE | dict(norm_eval=True),
        visual=dict(type='galr_mm.GlobalPool', embed_dim=8),
        text_encoder=TEXT | dict(embed_dim=8, dropout=dropout),
        loss=dict(type='galr_mm.ContrastiveLoss'),
        data_preprocessor=dict(type='mmpretrain.MultiModalDataPreprocessor'),
    )
    return MODELS.build(config | options).train()


def by_parts(model, images, samples):
    """The loss over features of parts of two images, all in one graph."""
    parts = [model.extract_feat(images[i : i + 2], samples[i : i + 2]) for i in range(0, len(images), 2)]
    feats = [torch.cat([part[name] for part in parts]) for name in ('image_feat', 'text_feat')]
    return model.loss_module(*feats, *pair_ids(samples))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('half', [False, True])
def test_micro_batches_give_the_gradients_of_the_batch(half):
    """Dropout draws the same masks in both forward passes; whole and in parts the loss is one of all pairs."""
    images, samples = batch(count=5, texts=2, boxes=None)

    def backward(model, losses):
        torch.manual_seed(7)
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            loss = losses(model)['loss_contrastive']
        loss.backward()
        return loss.item(), gradients(model)

    small = large_batch_model(0.5, micro_batch=2)
    loss, grads = backward(small, lambda model: model(images, samples, mode='loss'))
    after = torch.rand(())
    expected_loss, expected = backward(large_batch_model(0.5), lambda model: by_parts(model, images, samples))
    assert loss == expected_loss
    torch.testing.assert_close(grads, expected)
    assert torch.rand(()) == after  # the second pass left no trace in the random state
    other = backward(large_batch_model(0.5, micro_batch=3), lambda model: model(images, samples, mode='loss'))[1]
    assert not torch.allclose(other['text_encoder.gru.weight_hh_l0'], grads['text_encoder.gru.weight_hh_l0'])
    if not half:  # without dropout nothing tells one pass over the batch from several
        whole, parts = (
            backward(large_batch_model(0.0, micro_batch=size), lambda model: model(images, samples, mode='loss'))
            for size in (None, 2)
        )
        torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize('value', [0, 2.5, True, '2'])
def test_a_micro_batch_that_is_no_count(value):
    with pytest.raises(ValueError, match='micro_batch is .*, expected 1 image or more'):
        large_batch_model(0.0, micro_batch=value)


def test_micro_batches_under_mmengine():
    """Accumulation over two batches and clipping: the step is that of whole batches."""
    data = []
    for seed in (1, 2):
        images, samples = batch(count=5, texts=2, boxes=None)
        data.append(dict(inputs=images * seed, data_samples=samples))
    models = [large_batch_model(0.0, micro_batch=size) for size in (None, 2)]
    before = [p.clone() for p in models[0].parameters()]
    for model in models:
        optim = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = OptimWrapper(optim, accumulative_counts=2, clip_grad=dict(max_norm=0.5))
        for part in data:
            model.train_step(part, wrapper)
    whole, parts = (list(model.parameters()) for model in models)
    assert not torch.equal(whole[0], before[0])
    torch.testing.assert_close(parts, whole)


def test_micro_batches_bound_the_memory():
    """No activation outlives the first pass, and in the backward pass those of one part are alive at a time."""
    model, alive, most, seen = large_batch_model(0.0, micro_batch=2), [], [], []

    def watch(module, inputs, output):
        seen.append(len(inputs[0]))
        most.append(1 + sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(output.untyped_storage()))

    model.backbone.layer2[0].conv1.register_forward_hook(watch)
    images, samples = batch(count=5, texts=2, boxes=None)
    loss = model(images, samples, mode='loss')['loss_contrastive']
    assert not any(reference() is not None for reference in alive)
    loss.backward()
    assert seen == [2, 2, 1, 1, 2, 2]
    assert max(most) == 1
    with pytest.raises(ValueError, match='micro_batch is 0'):
        large_batch_model(0.0, micro_batch=0)


def test_captions_that_do_not_fit_their_ids():
    images, samples = batch(boxes=None)
    samples[1].caption_id = [0, 1]
    with pytest.raises(ValueError, match='image 1 has 1 captions and 2 caption ids'):
        dual_encoder()(images, samples, mode='loss')
    del samples[1].text
    with pytest.raises(ValueError, match='image 1 has 0 captions'):
        dual_encoder()(images, samples, mode='loss')


BACKBONES = {
    'resnet': BACKBONE,
    'convnext': dict(type='mmpretrain.ConvNeXt', arch='atto', out_indices=(0, 1, 2, 3), gap_before_final_norm=False),
    'swin': dict(
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]),
        img_size=64,
        pad_small_map=True,
        out_indices=(0, 1, 2, 3),
    ),
    'vit': dict(
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=64,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
    ),
    'mobilenet': dict(type='mmpretrain.MobileNetV3', arch='small', out_indices=(0, 3, 8, 11)),
    'timm': dict(type='mmpretrain.TIMMBackbone', model_name='resnet10t', features_only=True, out_indices=(1, 2, 3, 4)),
    'mmdet': dict(type='mmdet.CSPNeXt', arch='P5', widen_factor=0.125, deepen_factor=0.167, out_indices=(1, 2, 3, 4)),
}
FPN = dict(
    backbone=dict(type='mmdet.ResNet', depth=18, norm_eval=False),
    neck=dict(type='mmdet.FPN', in_channels=[64, 128, 256, 512], out_channels=32, num_outs=4),
)


OPTIONS = {**{name: dict(backbone=backbone) for name, backbone in BACKBONES.items()}, 'fpn': FPN}
# timm comes with open_clip
NEEDS = {'timm': pytest.mark.clip, 'mmdet': pytest.mark.detect, 'fpn': pytest.mark.detect}


@pytest.mark.parametrize('size', [(64, 64), (97, 131)], ids=str)
@pytest.mark.parametrize('options', [pytest.param(o, marks=NEEDS.get(n, ()), id=n) for n, o in OPTIONS.items()])
def test_backbones_by_a_config_line(options, size):
    """The channels follow from the backbone; images of any size go forward and gradients back to the first layer."""
    model = galr('tokens', visual=dict(type='galr_mm.MVSA', low_stride=2), **options)
    _, samples = batch()
    images = torch.randn(3, 3, *size)
    assert model.visual.in_channels == tuple(m.shape[1] for m in model.eval().extract_maps(images).maps)
    model.train()(images, samples, mode='loss')['loss_contrastive'].backward()
    first = next(p for p in model.backbone.parameters() if p.requires_grad)
    assert first.grad.abs().sum() > 0
    assert model.visual.solo_fc.weight.grad.abs().sum() > 0


TINY_CLIP = str(ROOT / 'tests/data/clip/tiny-vit.json')


@pytest.mark.parametrize('clip', [False, pytest.param(True, marks=pytest.mark.clip)])
def test_bfloat16_on_any_backbone(clip):
    options = {}
    if clip:
        options = dict(
            backbone=dict(type='galr_mm.OpenCLIPBackbone', model_name=TINY_CLIP),
            visual=dict(type='galr_mm.CLIPEmbedding'),
            text_encoder=dict(type='galr_mm.OpenCLIPTextEncoder', model_name=TINY_CLIP),
        )
    plain, half = galr('tokens', **options).eval(), galr('tokens', precision='amp_bf16', **options).eval()
    half.load_state_dict(plain.state_dict())
    images, samples = batch()
    images = images[..., :32, :32]
    feats, expected = (m(images, samples, mode='tensor')['image_feat'] for m in (half, plain))
    assert feats.dtype == torch.float32
    assert not torch.equal(feats, expected)
    torch.testing.assert_close(feats, expected, atol=3e-2, rtol=0)
    half.train()(images, samples, mode='loss')['loss_contrastive'].backward()
    assert next(half.backbone.parameters()).grad is not None
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        galr(precision='fp8')


class Touchy(torch.nn.Module):
    """A backbone on which every forward pass leaves traces: counters, gradients, random draws; one part is frozen."""

    def __init__(self, fails=False):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.frozen = torch.nn.BatchNorm2d(4)
        self.frozen.eval()
        self.fails = fails
        self.seen = []

    def forward(self, images):
        self.seen.append([module.training for module in self.modules()])
        out = self.frozen(self.norm(self.conv(images))) + torch.rand(())
        if out.requires_grad:
            out.sum().backward(retain_graph=True)
        if self.fails:
            raise RuntimeError('needs 640 pixels')
        return (out,)


def touchy_model(fails=False, **visual):
    backbone = Touchy(fails)
    backbone.before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.manual_seed(3)
    return backbone, lambda: DualEncoder(backbone, dict(type='galr_mm.GlobalPool', **visual), TEXT)


@pytest.mark.parametrize('fails', [False, True])
def test_the_dry_run_leaves_no_trace(fails):
    backbone, build = touchy_model(fails)
    if fails:
        before = torch.get_rng_state()
        with pytest.raises(RuntimeError, match='needs 640 pixels'):
            build()
        assert torch.equal(torch.get_rng_state(), before)
    else:
        model = build()
        after = torch.get_rng_state()
        other = touchy_model(in_channels=(4,))[1]()  # the same without a dry run
        assert torch.equal(torch.get_rng_state(), after)
        assert torch.equal(model.visual.fc.weight, other.visual.fc.weight)
        assert model.visual.in_channels == (4,)
    assert backbone.seen == [[False] * 4]  # it did run, once, in evaluation
    assert [module.training for module in backbone.modules()] == [True, True, True, False]
    assert all(torch.equal(value, backbone.before[name]) for name, value in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())


def test_backbones_without_maps_are_refused():
    with pytest.raises(ValueError, match="out_type='featmap'"):
        galr(backbone=BACKBONES['vit'] | dict(out_type='cls_token'))
    with pytest.raises(RuntimeError, match='mat1 and mat2') as caught:  # the backbone's own error, and where it was
        galr(backbone=torch.nn.Linear(5, 5))
    if sys.version_info >= (3, 11):
        assert 'dry run of the backbone at (224, 224) pixels; visual.in_channels' in caught.value.__notes__[0]


def test_a_dual_encoder_needs_its_image_tower():
    config = dict(type='galr_mm.DualEncoder', text_encoder=TEXT)
    visual = dict(type='galr_mm.GlobalPool')
    for options in (dict(backbone=BACKBONE, visual=None), dict(backbone=None, visual=visual)):
        with pytest.raises(ValueError, match='give them or none'):
            MODELS.build(config | options)
    with pytest.raises(ValueError, match='a DualEncoder encodes images by backbone and visual'):
        MODELS.build(config | dict(backbone=None, visual=None))


def test_a_subclass_may_encode_images_its_own_way():
    class Mean(DualEncoder):
        def encode_image(self, images, graph=None):
            return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)

    model = Mean(None, None, TEXT | dict(embed_dim=3))
    images, samples = batch(boxes=None)
    assert model(images, samples, mode='predict')[0].image_feat.shape == (3,)
    assert not any(name.startswith(('backbone', 'visual')) for name in model.state_dict())
    with pytest.raises(RuntimeError, match='built with backbone=None'):
        model.extract_maps(images)


def test_features_are_normalized_and_follow_the_objects():
    model = galr().eval()
    images, samples = batch(texts=5)
    feats = model(images, samples, mode='tensor')
    assert feats['image_feat'].shape == (3, 512)
    assert feats['text_feat'].shape == (15, 512)
    for feat in feats.values():
        torch.testing.assert_close(feat.norm(dim=-1), torch.ones(len(feat)))
    samples[1].proposals = samples[1].proposals[:0]  # an image with no detection
    other = model(images, samples, mode='tensor')['image_feat']
    torch.testing.assert_close(other[0], feats['image_feat'][0])
    assert not torch.allclose(other[1], feats['image_feat'][1])
    del samples[1].proposals  # an image that the proposal file does not know
    torch.testing.assert_close(model(images, samples, mode='tensor')['image_feat'], other)


def test_graph_given_by_hand():
    model = galr().eval()
    images, samples = batch()
    graph = model.local.drea([s.proposals for s in samples], [(64, 64)] * 3)
    torch.testing.assert_close(model.encode_image(images, graph), model.extract_feat(images, samples)['image_feat'])
    empty = ObjectGraph.empty(3, 4, 8, like=images)
    torch.testing.assert_close(model.encode_image(images), model.encode_image(images, empty))


@pytest.fixture
def logged(monkeypatch):
    texts = []
    monkeypatch.setattr('galr_mm.utils.logging._LOGGED', set())
    monkeypatch.setattr('galr_mm.utils.logging.print_log', lambda text, *_: texts.append(text))
    return texts


def test_missing_proposals_are_logged_once(logged):
    galr(**ONE_BRANCH['global']).eval()(*batch(boxes=None), mode='tensor')
    assert logged == []
    model = galr().eval()
    before = dict(vars(model.local))
    for _ in range(3):
        model(*batch(boxes=None), mode='tensor')
    assert len(logged) == 1
    assert logged[0].startswith('No proposals')
    assert 'tools/extract_proposals.py' in logged[0]
    assert vars(model.local) == before
    images, samples = batch()
    del samples[1].proposals
    for _ in range(3):
        model(images, samples, mode='tensor')
    assert len(logged) == 2
    assert logged[1].startswith('1 of 3 images')


@pytest.mark.parametrize('build', [galr, dual_encoder])
def test_parts_of_a_sample_may_be_missing(build):
    model = build().eval()
    images, samples = batch()
    assert set(model(images, None, mode='tensor')) == {'image_feat'}
    assert set(model(images, [DataSample() for _ in images], mode='tensor')) == {'image_feat'}
    assert set(model(None, [DataSample(text='a query')], mode='tensor')) == {'text_feat'}
    assert model(images, [DataSample() for _ in images], mode='predict')[0].image_feat.shape == (512,)


def test_predict_gives_each_sample_its_own():
    model = galr().eval()
    images, samples = batch(texts=2)
    feats = model(images, samples, mode='tensor')
    out = model(images, samples, mode='predict')
    torch.testing.assert_close(torch.stack([s.image_feat for s in out]), feats['image_feat'])
    torch.testing.assert_close(torch.cat([s.text_feat for s in out]), feats['text_feat'])
    assert [len(s.text_key) for s in out] == [2, 2, 2]
    keys = [key for s in out for key in s.text_key]
    # 'a plane near .. ships' of image i, caption t is that of image i + 1, caption t - 1
    assert [keys.index(key) for key in keys] == [0, 1, 1, 3, 3, 5]


def test_predict_encodes_equal_captions_once(monkeypatch):
    model = galr().eval()
    seen, encode = [], model.text_encoder.encode_ids
    monkeypatch.setattr(model.text_encoder, 'encode_ids', lambda ids: seen.append(len(ids)) or encode(ids))
    images, samples = batch(texts=2)
    model(images, samples, mode='predict')
    assert seen == [4]  # of 6
    assert torch.equal(samples[0].text_feat[1], samples[1].text_feat[0])


def test_initial_weights_lie_as_the_images_do():
    plain, ours = dual_encoder(), dual_encoder()
    torch.manual_seed(0)
    super(DualEncoder, plain).init_weights()
    torch.manual_seed(0)
    ours.init_weights()
    assert ours.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in plain.backbone.state_dict().items():
        torch.testing.assert_close(ours.backbone.state_dict()[name], value, rtol=0, atol=0)


def test_text_encoders_without_ids_give_no_keys():
    model = MODELS.build(
        dict(type='galr_mm.DualEncoder', backbone=BACKBONE, visual=dict(type='galr_mm.GlobalPool', embed_dim=8),
             text_encoder=dict(type='galr_mm.SentenceVectorProjection', in_dim=4, embed_dim=8))
    )  # fmt: skip
    images, samples = batch(boxes=None)
    for sample in samples:
        sample.set_field([torch.rand(4)], 'text')
    out = model(images, samples, mode='predict')
    assert out[0].text_feat.shape == (1, 8)
    assert 'text_key' not in out[0]


def test_predict_all_is_mmpretrains_contract():
    model = galr().eval()
    images, samples = batch(texts=2)
    feats = model(images, samples, mode='tensor')
    i2t, t2i = model.predict_all(feats, samples, num_images=3, num_texts=6)
    similarity = feats['image_feat'] @ feats['text_feat'].t()
    torch.testing.assert_close(torch.stack([s.pred_score for s in i2t]), similarity)
    torch.testing.assert_close(torch.stack([s.pred_score for s in t2i]), similarity.t())
    assert [s.gt_label for s in i2t] == [[0, 1], [2, 3], [4, 5]]
    assert [int(s.gt_label) for s in t2i] == [0, 0, 1, 1, 2, 2]
    assert len(model.predict_all(feats, None, cal_i2t=False)) == 1


def test_runs_in_mmpretrains_retrieval_loop(mini, tmp_path):
    """Features, loop and metric of the sister package on our data set and model."""
    from mmengine.runner import Runner

    pipeline = [
        dict(type='galr_mm.LoadImageWithProposals'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='galr_mm.PackRetrievalInputs'),
    ]
    runner = Runner(
        model=galr(
            local=LOCAL | dict(drea=dict(type='galr_mm.DREA', num_classes=6)),
            data_preprocessor=dict(type='mmpretrain.MultiModalDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3),
        ),
        work_dir=str(tmp_path),
        test_dataloader=dict(
            batch_size=4,
            sampler=dict(type='mmpretrain.SequentialSampler', subsample_type='sequential'),
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='galr_mm.ImageTextDataset', data_root=str(mini), ann_file='dataset_mini.json', split='test',
                test_mode=True, pipeline=pipeline,
            ),
        ),
        test_cfg=dict(type='mmpretrain.RetrievalTestLoop'),
        test_evaluator=dict(type='mmpretrain.RetrievalRecall', topk=(1, 5)),
        experiment_name='mmpretrain_loop',
        default_scope='mmpretrain',
    )  # fmt: skip
    metrics = runner.test()
    assert {'i2t/retrieval/Recall@5', 't2i/retrieval/Recall@5'} <= set(metrics)


def test_unknown_mode_and_missing_loss():
    model = galr(loss=None)
    with pytest.raises(RuntimeError, match="'train', expected"):
        model(*batch(), mode='train')
    with pytest.raises(RuntimeError, match='needs a loss'):
        model(*batch(), mode='loss')


def test_test_time_augmentation():
    model = RetrievalTTAModel(module=dual_encoder()).eval()
    images, samples = batch(texts=2)
    samples.append(DataSample(text='two ships'))  # a query without an image comes alone, below
    views = [images, images.flip(-1)]
    with torch.no_grad():
        features = [model.module.encode_image(view) for view in views]
        found = model.test_step(dict(images=views, data_samples=[samples[:3], copy.deepcopy(samples[:3])]))
        query = copy.deepcopy(samples[3])
        (alone,) = model.test_step(dict(data_samples=[[samples[3]], [query]]))
    expected = F.normalize(features[0] + features[1], dim=-1)
    torch.testing.assert_close(torch.stack([sample.image_feat for sample in found]), expected)
    captions = [text for sample in found for text in sample.text]
    assert len(captions) == 6
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([s.text_feat for s in found]), model.module.encode_text(captions))
    assert 'image_feat' not in alone
    assert alone.text_feat.shape == (1, 512)
    assert 'text' not in query


def test_views_and_a_detector_inside():
    model = galr()
    model.local.detector = torch.nn.Identity()
    with pytest.raises(ValueError, match='a detector inside the model sees the file: extract proposals'):
        RetrievalTTAModel(model)
