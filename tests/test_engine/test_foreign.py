"""Re-ranking of mmpretrain's own retrievers under mmpretrain's own loop."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from galr_mm.evaluation import multivariate_rerank, recall_at_k
from tests.helpers import run_tool

pytestmark = pytest.mark.text  # BLIP's tokenizer and its BERT

WORDS = [
    'a',
    'many',
    'some',
    'plane',
    'road',
    'house',
    'tree',
    'field',
    'river',
    'near',
    'on',
    'with',
    'green',
    'small',
]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return blip(tmp_path_factory.mktemp('blip'), 11)


def blip(folder, count):
    """A config that knows mmpretrain only, but for one line: a tiny random BLIP on images with five captions each."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / 'images').mkdir()
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f'images/{number}.png')
        images.append(dict(id=100 + number, coco_url=f'http://x/images/{number}.png'))
        for _ in range(5):
            caption = ' '.join(rng.choice(WORDS, 6))
            annotations.append(dict(id=len(annotations), image_id=100 + number, caption=caption))
    (folder / 'captions.json').write_text(json.dumps(dict(images=images, annotations=annotations)))
    (folder / 'tokenizer').mkdir()
    vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
    (folder / 'tokenizer/vocab.txt').write_text('\n'.join(vocabulary))
    path = folder / 'blip.py'
    path.write_text(f"""
default_scope = 'mmpretrain'
custom_hooks = [dict(type='galr_mm.RerankHook')]
model = dict(
    type='BlipRetrieval',
    data_preprocessor=dict(type='MultiModalDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True),
    tokenizer=dict(type='BlipTokenizer', name_or_path='{folder}/tokenizer'),
    vision_backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=32,
        patch_size=16,
        out_type='raw',
    ),
    text_backbone=dict(
        type='XBertEncoder',
        med_config=dict(
            architectures=['BertModel'], attention_probs_dropout_prob=0.0, hidden_act='gelu', hidden_dropout_prob=0.0,
            hidden_size=32, initializer_range=0.2, intermediate_size=64, layer_norm_eps=1e-12,
            max_position_embeddings=64, model_type='bert', num_attention_heads=2, num_hidden_layers=2, pad_token_id=0,
            add_type_embeddings=False, vocab_size={len(vocabulary) + 2}, encoder_width=32, add_cross_attention=True,
        ),
    ),
    vision_neck=dict(type='Linear', in_features=32, out_features=16),
    text_neck=dict(type='Linear', in_features=32, out_features=16),
    head=dict(type='ITCHead', embed_dim=16),
    multimodal_head=dict(type='ITMHead', hidden_size=32, with_pooler=False),
    topk=5,
    max_txt_len=10,
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type='COCORetrieval',
        data_root='{folder}',
        ann_file='captions.json',
        data_prefix=dict(img_path=''),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CleanCaption', keys='text'),
            dict(type='PackInputs', algorithm_keys=['text', 'gt_text_id', 'gt_image_id'], meta_keys=['image_id']),
        ],
    ),
    sampler=dict(type='SequentialSampler', subsample_type='sequential'),
    collate_fn=dict(type='default_collate'),
)
test_evaluator = dict(type='RetrievalRecall', topk=(1, 5))
test_cfg = dict(type='RetrievalTestLoop')
""")
    torch.manual_seed(0)
    runner = build(path)
    torch.save({'state_dict': runner.model.state_dict()}, folder / 'blip.pth')
    return path


def build(path, **options):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(dict(work_dir=str(path.parent / 'work'), **options))
    cfg.load_from = str(path.parent / 'blip.pth') if (path.parent / 'blip.pth').exists() else None
    return Runner.from_cfg(cfg)


@pytest.fixture
def matrices(monkeypatch):
    """What predict_all gave, as matrices."""
    from mmpretrain.models import BlipRetrieval

    seen = {}
    original = BlipRetrieval.predict_all

    def recording(self, *args, **kwargs):
        i2t, t2i = original(self, *args, **kwargs)
        seen.update(i2t=torch.stack([s.pred_score for s in i2t]), t2i=torch.stack([s.pred_score for s in t2i]))
        return i2t, t2i

    monkeypatch.setattr(BlipRetrieval, 'predict_all', recording)
    return seen


@pytest.mark.parametrize('two_stage', [True, False])
def test_both_directions_beside_the_raw(config, matrices, two_stage):
    options = {'model.fast_match': not two_stage}
    raw = build(config, **options).test()
    runner = build(config, rerank=['mr', 'rr'], rerank_cfg=dict(mr=dict(k=4)), **options)
    metrics = runner.test()
    assert {name: metrics[name] for name in raw} == raw
    assert 'predict_all' not in vars(runner.model)
    images = len(matrices['i2t'])
    positives = torch.arange(images)[:, None] == torch.arange(5 * images) // 5
    assert (matrices['i2t'] == -100).any() == two_stage
    for direction, right in (('i2t', positives), ('t2i', positives.t())):
        other = matrices['t2i' if direction == 'i2t' else 'i2t']
        scores = multivariate_rerank(matrices[direction], k=4, reverse_similarity=other, filler=-100.0)
        for k, expected in recall_at_k(scores, right, topk=(1, 5)).items():
            if two_stage and k == 5:
                continue  # of 60 pairs that were not scored, upstream's metric may pick any
            assert metrics[f'mr/{direction}/retrieval/Recall@{k}'] == pytest.approx(expected, abs=1e-3)
        assert f'rr/{direction}/retrieval/Recall@5' in metrics
    assert runner.test().keys() == metrics.keys()  # a second test on the same runner


def printed(log):
    return {name: float(value) for name, value in re.findall(r'(\S+/Recall@\d): ([\d.]+)', log)}


@pytest.mark.distributed
@pytest.mark.parametrize('images', [11, pytest.param(12, marks=pytest.mark.slow)])
def test_two_processes(images, tmp_path):
    config = blip(tmp_path, images)
    options = ['--cfg-options', 'rerank=mr', 'rerank_cfg.mr.k=4']
    work = config.parent / 'two'
    one = run_tool('tools/test.py', config, config.parent / 'blip.pth', '--work-dir', work, *options)
    command = ['tools/test.py', config, config.parent / 'blip.pth', '--work-dir', work, '--launcher', 'pytorch']
    two = run_tool(*command, *options, processes=2)
    one, two = printed(one.stdout + one.stderr), printed(two.stdout + two.stderr)
    assert 'mr/i2t/retrieval/Recall@1' in one
    # for 11 images upstream's own collection of caption queries drops some real ones instead of the padding
    names = [name for name in one if 'i2t' in name or images % 2 == 0]
    assert {name: two[name] for name in names} == {name: one[name] for name in names}


def test_interleaved_processes_are_refused(config, monkeypatch):
    runner = build(config, rerank='mr', **{'test_dataloader.sampler.subsample_type': 'default'})
    monkeypatch.setattr('galr_mm.engine.hooks.mmpretrain_rerank.get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='SequentialSampler'):
        runner.test()


def test_after_a_test_that_failed(config, matrices):
    runner = build(config, rerank='mr')
    forward, runner.model.extract_feat = runner.model.extract_feat, lambda *a, **k: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.test()
    runner.model.extract_feat = forward
    assert 'mr/i2t/retrieval/Recall@1' in runner.test()
    assert 'predict_all' not in vars(runner.model)


def test_one_sided_test_sets_are_refused(config):
    runner = build(config, rerank='mr')
    runner.test_dataloader.dataset.text_size = 0
    with pytest.raises(ValueError, match=r'images and 0 captions'):
        runner.test()
    runner = build(config, rerank='mr')
    runner.model.extract_feat = lambda images, samples: dict(image_feat=torch.rand(len(images), 4))
    with pytest.raises(ValueError, match='gave no text_feat'):
        runner.test()


def test_other_loops_are_refused(config):
    runner = build(config, rerank='mr', test_cfg=dict(_delete_=True, type='TestLoop'))
    with pytest.raises(TypeError, match=r'TestLoop.*RetrievalTestLoop'):
        runner.test()


def test_the_tool_adds_a_missing_hook(config):
    path = config.parent / 'no_hook.py'
    path.write_text(config.read_text().replace("custom_hooks = [dict(type='galr_mm.RerankHook')]", ''))
    done = run_tool(
        'tools/test.py',
        path,
        config.parent / 'blip.pth',
        '--work-dir',
        config.parent / 'w',
        '--cfg-options',
        'rerank=mr',
    )
    assert 'mr/t2i/retrieval/Recall@1' in printed(done.stdout + done.stderr)
