"""OpenCLIP's towers as parts: the same numbers as open_clip's own, from tensors and from image files."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, default_collate
from mmpretrain.structures import DataSample
from PIL import Image
from torch.nn import functional as F

from galr_mm.evaluation import RetrievalEvaluator
from galr_mm.integrations.open_clip import load_clip, load_preprocess, load_tokenizer
from galr_mm.models import OpenCLIPRetriever
from galr_mm.registry import MODELS
from tests.helpers import ROOT
from tests.test_models.test_retrievers import batch

open_clip = pytest.importorskip('open_clip', reason='the extra galr_mm[clip]')
pytestmark = pytest.mark.clip

# small models of four families; their files are the own model files of a user
TINY, TINY_RESNET, TINY_TIMM, TINY_COCA = (
    str(ROOT / f'tests/data/clip/tiny-{name}.json') for name in ('vit', 'resnet', 'timm', 'coca')
)
NAMES = (TINY, TINY_RESNET, TINY_TIMM, TINY_COCA, 'ViT-S-32', 'RN50')
TEXTS = ['two planes beside a runway .', 'A river', '']


def build(type_, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=f'galr_mm.{type_}', **options))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Files as RemoteCLIP publishes them: the state dict of an open_clip model. {name: (model, file)}"""
    folder = tmp_path_factory.mktemp('clip')
    made = {}
    for name in NAMES:
        torch.manual_seed(1)
        model = load_clip(name).eval()
        with torch.no_grad():
            model.logit_scale.fill_(4.0)
            for module in model.modules():  # random ResNets start with blocks that do nothing
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
        made[name] = (model, str(folder / f'{len(made)}.pt'))
        torch.save(model.state_dict(), made[name][1])
    return made


@pytest.mark.parametrize('name', NAMES)
@torch.no_grad()
def test_embeddings_are_open_clips(name, weights):
    theirs, file = weights[name]
    ours = build('OpenCLIPRetriever', model_name=name, pretrained=file).eval()
    size = ours.backbone.image_size
    images = torch.randn(2, 3, *size)
    expected = theirs.encode_image(images, normalize=True)
    torch.testing.assert_close(ours.encode_image(images), expected, atol=1e-5, rtol=0)
    ids = load_tokenizer(name)(TEXTS)
    expected_text = theirs.encode_text(ids, normalize=True)
    torch.testing.assert_close(ours.encode_text(TEXTS), expected_text, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.encode_text(ids), expected_text, atol=1e-5, rtol=0)
    assert ours.text_encoder.temperature == pytest.approx(np.exp(-4.0))

    backbone = build('OpenCLIPBackbone', model_name=name, pretrained=file).eval()
    maps, embedding = backbone.extract_features(images)
    torch.testing.assert_close(F.normalize(embedding, dim=-1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone(images), tuple(maps))  # under other models: a tuple of maps
    assert len(maps) == 4
    assert all(m.ndim == 4 and m.shape[-1] == m.shape[-2] for m in maps)
    assert all(a.shape[-1] >= b.shape[-1] for a, b in zip(maps[:-1], maps[1:], strict=True))  # from fine to coarse


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """One file a mode; RGBA and LA with an alpha that changes from pixel to pixel."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (12, 18, 4), dtype=np.uint8)
    base = Image.fromarray(pixels).resize((180, 120), Image.BICUBIC)
    files = []
    for mode, suffix in (('RGB', 'png'), ('RGB', 'jpg'), ('L', 'png'), ('RGBA', 'png'), ('LA', 'png'), ('P', 'png')):
        files.append(folder / f'{len(files)}.{suffix}')
        (base if mode in ('RGBA', 'LA') else base.convert('RGB')).convert(mode).save(files[-1])
    return files


@pytest.mark.parametrize('name', [TINY, TINY_RESNET, 'ViT-S-32'])
@torch.no_grad()
def test_from_file_to_embedding(name, weights, images):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    theirs, file = weights[name]
    preprocess = image_transform_v2(PreprocessCfg(**theirs.visual.preprocess_cfg), is_train=False)
    expected = theirs.encode_image(
        torch.stack([preprocess(Image.open(p).convert('RGB')) for p in images]), normalize=True
    )
    ours = build('OpenCLIPRetriever', model_name=name, pretrained=file).eval()
    pipeline = Compose(
        [dict(type='galr_mm.OpenCLIPPreprocess', model_name=name), dict(type='galr_mm.PackRetrievalInputs')]
    )
    data = default_collate([pipeline(dict(img_path=str(p))) for p in images])
    inputs = ours.data_preprocessor(data, False)
    torch.testing.assert_close(
        ours.extract_feat(inputs['images'], inputs['data_samples'])['image_feat'], expected, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize('name', ['ViT-B-32', 'ViT-B/16', 'ViT-L-14-336', 'RN50x4', 'convnext_base_w_320', TINY])
def test_preprocessing_without_the_model(name):
    cfg = load_preprocess(name)
    size = 32 if name == TINY else open_clip.get_model_config(name.replace('/', '-'))['vision_cfg']['image_size']
    assert (cfg['size'], cfg['interpolation'], cfg['resize_mode']) == (size, 'bicubic', 'shortest')
    assert load_preprocess('ViT-B-16-SigLIP', 'webli') | dict(size=0) == dict(
        size=0, mode='RGB', mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bicubic', resize_mode='squash', fill_color=0
    )


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_locked_towers():
    image = build('OpenCLIPBackbone', model_name=TINY, lock=True)
    assert trainable(image) == set()
    assert not image.train().tower.training
    last = build('OpenCLIPBackbone', model_name=TINY, lock=True, unlocked_groups=2)
    assert {name.split('.resblocks.')[-1].split('.')[0] for name in trainable(last)} == {'3', 'tower'}
    assert 'tower.proj' in trainable(last)
    assert last.tower.training
    text = build('OpenCLIPTextEncoder', model_name=TINY, lock=True)
    assert trainable(text) == set()
    assert trainable(build('OpenCLIPTextEncoder', model_name=TINY_COCA, lock=True)) == set()
    some = trainable(build('OpenCLIPTextEncoder', model_name=TINY, lock=True, unlocked_layers=1))
    assert some
    assert 'clip.token_embedding.weight' not in some

    resnet = build('OpenCLIPBackbone', model_name=TINY_RESNET, lock=True).train()
    before = {name: b.clone() for name, b in resnet.named_buffers()}
    resnet(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(b, before[name]) for name, b in resnet.named_buffers())
    with pytest.raises(ValueError, match='unlocked_groups is 2.*ModifiedResNet'):
        build('OpenCLIPBackbone', model_name=TINY_RESNET, lock=True, unlocked_groups=2)
    with pytest.raises(ValueError, match='set lock=True'):
        build('OpenCLIPBackbone', model_name=TINY, unlocked_groups=2)


def losses(model, size=32):
    _, samples = batch(4)
    torch.manual_seed(0)
    out = model(torch.randn(4, 3, size, size), samples, mode='loss')
    out['loss_contrastive'].backward()
    return out


def test_the_temperature_is_the_models_and_stays_in_range(weights):
    model = build('OpenCLIPRetriever', model_name=TINY, pretrained=weights[TINY][1])
    assert losses(model)['temperature'].item() == pytest.approx(np.exp(-4.0))
    assert model.loss_module.log_scale.grad.abs() > 0
    with torch.no_grad():
        model.loss_module.log_scale.fill_(9.0)
    model.zero_grad()
    assert losses(model)['temperature'].item() == pytest.approx(0.01)
    assert model.loss_module.log_scale.item() == pytest.approx(np.log(100.0))
    assert model.loss_module.log_scale.grad is not None
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_grad_checkpointing_and_bf16():
    plain = build('OpenCLIPRetriever', model_name=TINY)
    saving = build('OpenCLIPRetriever', model_name=TINY, grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    assert saving.backbone.tower.transformer.grad_checkpointing
    assert saving.text_encoder.clip.transformer.grad_checkpointing
    torch.testing.assert_close(losses(saving), losses(plain))
    for (name, ours), (_, theirs) in zip(saving.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    half = build('OpenCLIPRetriever', model_name=TINY, precision='amp_bf16')
    half.load_state_dict(plain.state_dict())
    feats, expected = (m.eval().encode_image(torch.randn(2, 3, 32, 32).mul(0).add(0.5)) for m in (half, plain))
    assert feats.dtype == torch.float32
    assert not torch.equal(feats, expected)
    torch.testing.assert_close(feats, expected, atol=2e-2, rtol=0)
    losses(half)
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        build('OpenCLIPRetriever', model_name=TINY, precision='fp8')


@pytest.mark.parametrize('visual', ['CLIPEmbedding', 'MVSA'])
@pytest.mark.parametrize('name', [TINY, TINY_RESNET])
@pytest.mark.parametrize('mode', ['paper', 'tokens'])
def test_galr_on_clip(name, visual, mode):
    model = build(
        'GaLR',
        backbone=dict(type='galr_mm.OpenCLIPBackbone', model_name=name),
        visual=dict(type=f'galr_mm.{visual}'),
        local=dict(
            type='galr_mm.LocalBranch',
            drea=dict(type='galr_mm.DREA', num_classes=3, num_nodes=4),
            gcn=dict(type='galr_mm.GCN'),
            roi=dict(type='galr_mm.RoINodes'),
        ),
        fusion=dict(type='galr_mm.MIDF', mode=mode),
        text_encoder=dict(type='galr_mm.OpenCLIPTextEncoder', model_name=name),
        loss=dict(type='galr_mm.ContrastiveLoss', temperature=0.01),
    )
    size = model.backbone.image_size[0]
    assert model.visual.embed_dim == json.loads(Path(name).read_text())['embed_dim']
    losses(model, size)
    assert model.backbone.tower.conv1.weight.grad.abs().sum() > 0
    graph = model.local.drea([s.proposals for s in batch(4)[1]], [(64, 64)] * 4)
    with torch.no_grad():
        images = torch.randn(4, 3, size, size)
        assert not torch.allclose(model.eval().encode_image(images, graph), model.encode_image(images))


def test_checkpoints_of_training_hold_everything(tmp_path):
    model = build('OpenCLIPRetriever', model_name=TINY).eval()
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    other = build('OpenCLIPRetriever', model_name=TINY)
    with torch.no_grad():
        other.backbone.tower.proj.zero_()
    other.load_state_dict(torch.load(tmp_path / 'a.pth', weights_only=True), strict=True)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(other.eval().encode_image(images), model.encode_image(images))
    other.init_weights()  # mmengine's Runner calls it: what was loaded stays
    torch.testing.assert_close(other.encode_image(images), model.encode_image(images))


def test_a_folder_of_the_hub(tmp_path, weights):
    theirs, file = weights[TINY]
    cfg = dict(
        model_cfg=json.loads(Path(TINY).read_text()),
        preprocess_cfg=dict(mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', resize_mode='squash'),
    )
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(cfg))
    name = f'local-dir:{tmp_path}'
    with pytest.raises(ValueError, match='could not be loaded'):  # no weights in it
        build('OpenCLIPRetriever', model_name=name)
    shutil.copy(file, tmp_path / 'open_clip_pytorch_model.bin')
    ours = build('OpenCLIPRetriever', model_name=name).eval()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images, normalize=True))
    assert ours.data_preprocessor.std.flatten().tolist() == [63.75] * 3
    assert {k: v for k, v in load_preprocess(name).items() if k in cfg['preprocess_cfg']} == cfg['preprocess_cfg']
    with pytest.raises(ValueError, match='brings its own weights'):
        build('OpenCLIPRetriever', model_name=name, pretrained=file)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(model_name='ViT-B-33'), ValueError, 'close are ViT-B-32'),
        (dict(model_name='ViT-B-32', pretrained='opnai'), ValueError, 'a tag of ViT-B-32: openai'),
        (
            dict(model_name='ViT-B-32', pretrained='nowhere/Remote.pt'),
            FileNotFoundError,
            'no weights at nowhere/Remote.pt',
        ),
        (dict(model_name='nowhere/own.json'), FileNotFoundError, 'no model file at nowhere/own.json'),
        (dict(model_name='local-dir:/nowhere'), FileNotFoundError, '/nowhere'),
    ],
)
def test_what_is_not_there(options, error, message):
    with pytest.raises(error, match=message):
        build('OpenCLIPRetriever', **options)


def test_weights_of_another_model(weights):
    with pytest.raises(ValueError, match='does not fit open_clip model'):
        build('OpenCLIPRetriever', model_name=TINY, pretrained=weights[TINY_RESNET][1])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'it is empty'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'a pointer of git-lfs'),
        (b'<!DOCTYPE html><html></html>', 'a web page'),
        ({}, 'does not fit'),
        ([1, 2], 'does not fit'),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / 'weights.pt'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=rf'weights\.pt .*{message}'):
        build('OpenCLIPRetriever', model_name=TINY, pretrained=str(path))


def test_weights_from_files(weights, tmp_path):
    file = weights[TINY][1]
    assert build('OpenCLIPRetriever', model_name=TINY, pretrained=file).weights_from_files
    assert not build('OpenCLIPRetriever', model_name=TINY).weights_from_files

    class WithLayersOfItsOwn(OpenCLIPRetriever):
        pass

    assert not WithLayersOfItsOwn(model_name=TINY, pretrained=file).weights_from_files
    shutil.copy(file, tmp_path / 'open_clip_pytorch_model.bin')
    cfg = dict(model_cfg=json.loads(Path(TINY).read_text()), preprocess_cfg={})
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(cfg))
    assert build('OpenCLIPRetriever', model_name=f'local-dir:{tmp_path}').weights_from_files
    named = dict(model_name=TINY, pretrained=file)
    model = build(
        'DualEncoder',
        backbone=dict(type='galr_mm.OpenCLIPBackbone', **named),
        visual=dict(type='galr_mm.MVSA'),
        text_encoder=dict(type='galr_mm.OpenCLIPTextEncoder', **named),
    )
    assert not model.weights_from_files  # MVSA is random


def test_captions_that_clip_tells_apart_are_scored_apart(weights, tmp_path):
    """Features, scores and recalls are those of open_clip alone, for captions that differ by case or punctuation."""
    theirs, file = weights[TINY]
    captions = [['A river.', 'a river !'], ['a river', 'two roads'], ['a river.', 'Two roads,'], ['a lake', 'a river']]
    model = build('OpenCLIPRetriever', model_name=TINY, pretrained=file).eval()
    images = torch.randn(4, 3, 32, 32)
    samples = []
    for i, texts in enumerate(captions):
        sample = DataSample(metainfo=dict(image_id=i, img_path=f'{i}.jpg'))
        sample.text, sample.text_id = texts, [2 * i, 2 * i + 1]
        sample.gt_text_id, sample.gt_image_id = [2 * i, 2 * i + 1], [i, i]
        samples.append(sample)
    evaluator = RetrievalEvaluator([dict(type='galr_mm.RecallAtK', topk=(1, 2, 5))], str(tmp_path / 'scores.npz'))
    with torch.no_grad():
        for part in (slice(0, 1), slice(1, 4)):  # batches of different sizes
            evaluator.process(model(images[part], samples[part], mode='predict'))
        metrics = evaluator.evaluate(4)
        ids = open_clip.get_tokenizer('tiny-vit')([text for texts in captions for text in texts])
        image_feat, text_feat = theirs.encode_image(images, normalize=True), theirs.encode_text(ids, normalize=True)
    keys = [key for sample in samples for key in sample.text_key]
    assert [keys.index(key) for key in keys] == [0, 1, 2, 3, 0, 5, 6, 2]  # CLIP itself does not see the case
    expected = image_feat @ text_feat.t()
    with np.load(tmp_path / 'scores.npz') as scores:
        np.testing.assert_allclose(scores['i2t'], expected, atol=1e-5)
        assert scores['i2t'][0, 0] == scores['i2t'][0, 4]
        assert scores['i2t'][0, 0] != scores['i2t'][0, 1]
    positives = torch.arange(8) // 2 == torch.arange(4)[:, None]
    for name, scores, right in (('i2t', expected, positives), ('t2i', expected.t(), positives.t())):
        order = scores.round(decimals=5).argsort(dim=1, descending=True, stable=True)  # equal ids tie exactly
        for k in (1, 2, 5):
            hits = right.gather(1, order[:, :k]).any(1)
            assert metrics[f'{name}/R@{k}'] == pytest.approx(100 * hits.float().mean().item())


def test_activation_of_the_weights():
    for name, tag in open_clip.list_pretrained():  # all are taken, or a model is named that goes with the weights
        try:
            load_preprocess(name, tag)
        except ValueError as error:
            other = re.search(r"model_name='([^']+)'", str(error))[1]
            assert tag in open_clip.list_pretrained_tags_by_model(other)
            load_preprocess(other, tag)
    load_preprocess('roberta-ViT-B-32', 'laion2b_s12b_b32k')
    with pytest.raises(ValueError, match="QuickGELU.*use model_name='RN50-quickgelu'"):
        build('OpenCLIPRetriever', model_name='RN50', pretrained='openai')


@pytest.mark.parametrize(
    ('options', 'needed'),
    [
        (dict(model_name='ViT-B-32', pretrained='laion2b_s34b_b79k'), 'laion/CLIP-ViT-B-32-laion2B-s34B-b79K'),
        (dict(model_name='roberta-ViT-B-32'), 'roberta-base'),
        (dict(model_name='ViT-B-16-SigLIP'), 'timm/ViT-B-16-SigLIP'),
        (dict(model_name='hf-hub:nobody/nothing'), 'nobody/nothing'),
    ],
)
def test_offline(options, needed, monkeypatch, tmp_path):
    """Where the hub cannot be reached the answer comes at once, without retries, and says what to do."""
    slept = []
    monkeypatch.setattr('time.sleep', slept.append)
    monkeypatch.setattr('galr_mm.integrations.hf_offline._reachable', lambda *_: False)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf'{needed}.*huggingface-cli download'):
        build('OpenCLIPRetriever', **options)
    assert slept == []
    from huggingface_hub import constants

    assert not constants.HF_HUB_OFFLINE


def test_own_model_files(tmp_path):
    copy = tmp_path / 'tiny-vit.json'  # the same model under another path
    shutil.copy(TINY, copy)
    build('OpenCLIPBackbone', model_name=str(copy))
    copy.write_text(copy.read_text().replace('"layers": 4', '"layers": 3'))
    with pytest.raises(ValueError, match="another model called 'tiny-vit'"):
        build('OpenCLIPBackbone', model_name=str(copy))
    copy.write_text('{"embed_dim": 4}')
    with pytest.raises(ValueError, match='vision_cfg, text_cfg missing'):
        build('OpenCLIPBackbone', model_name=str(copy))


def test_wrong_use():
    backbone = build('OpenCLIPBackbone', model_name=TINY)
    with pytest.raises(ValueError, match=r'takes \(32, 32\) pixels.*OpenCLIPPreprocess'):
        backbone(torch.randn(1, 3, 48, 48))
    with pytest.raises(ValueError, match='the tower has 4 blocks'):
        build('OpenCLIPBackbone', model_name=TINY, out_indices=(4,))
    with pytest.raises(ValueError, match='in that order'):
        build('OpenCLIPBackbone', model_name=TINY, out_indices=(2, 1))
    with pytest.raises(ValueError, match='unlocked_groups=-1'):
        build('OpenCLIPBackbone', model_name=TINY, lock=True, unlocked_groups=-1)
    with pytest.raises(ValueError, match='model_name is missing'):
        build('OpenCLIPBackbone')
    with pytest.raises(ValueError, match='OpenCLIPBackbone'):
        build('CLIPEmbedding')([torch.randn(1, 3, 4, 4)])


def test_some_stages_of_a_resnet(weights):
    theirs, file = weights[TINY_RESNET]
    some = build('OpenCLIPBackbone', model_name=TINY_RESNET, pretrained=file, out_indices=(1, 3)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps, embedding = some.extract_features(images)
        torch.testing.assert_close(embedding, theirs.encode_image(images))
    assert [m.shape[-1] for m in maps] == [16, 4]


def test_towers_of_different_widths():
    model = build(
        'DualEncoder',
        backbone=dict(type='galr_mm.OpenCLIPBackbone', model_name=TINY),
        visual=dict(type='galr_mm.MVSA', embed_dim=16),
        text_encoder=dict(type='galr_mm.OpenCLIPTextEncoder', model_name=TINY),
    )
    with pytest.raises(ValueError, match=r"'image_feat': 16, 'text_feat': 32}; set embed_dim"):
        model(torch.randn(4, 3, 32, 32), batch(4)[1])


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(ImportError, match=r'galr_mm\[clip\]'):
        build('OpenCLIPRetriever', model_name=TINY)


@pytest.mark.parametrize('name', [TINY, TINY_COCA])
def test_captions_that_are_cut_are_said_once(name, monkeypatch):
    """Exactly those of more tokens than the context, as open_clip's tokenizer counts them."""
    logged = []
    monkeypatch.setattr('galr_mm.models.text.tokenized.print_log', lambda text, *_: logged.append(text))
    encoder = build('OpenCLIPTextEncoder', model_name=name).eval()
    room = encoder.tokenizer.context_length - 2  # of the tokens two are not words
    fits, long = ' '.join(['plane'] * room), ' '.join(['plane'] * (room + 1))
    encoder(TEXTS + [fits])
    assert encoder.cut([fits, long, 'a river', long + ' in a desert']) == [long, long + ' in a desert']
    assert logged == []
    for _ in range(2):
        encoder([fits, long, 'a river'])
    assert len(logged) == 1
    assert logged[0].startswith('1 of 3 captions are longer than what the text encoder reads')
    assert len(logged[0]) < 1000
