"""Hooks on a real runner; weights are random."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from galr_mm.cli.common import ensure_rerank_hook
from galr_mm.engine.hooks import RankedHitsHook, RerankHook
from galr_mm.registry import DATASETS
from galr_mm.structures import RetrievalResult, RetrievalScores
from galr_mm.visualization import Hit, ranked_hits
from tests.helpers import SMALL


@pytest.fixture
def build(mini_config, tmp_path):
    def build(**options):
        cfg = Config.fromfile(mini_config)
        loaders = dict.fromkeys([f'{split}_dataloader.persistent_workers' for split in ('train', 'val')], False)
        best = {'default_hooks.checkpoint.save_best': None}  # needs a training
        cfg.merge_from_dict(dict(work_dir=str(tmp_path), **loaders, **best, **copy.deepcopy(options)))
        return Runner.from_cfg(cfg)

    return build


COUNTS = ['num_images', 'num_texts']  # ConcatDataset compares what else the sets say of themselves
HOOK = [dict(type='galr_mm.RerankHook')]


def prefixes(metrics):
    return {name.split('/')[0] for name in metrics if name.count('/') == 2}


def test_inert_by_default(build):
    runner = build(custom_hooks=HOOK)
    assert prefixes(runner.test()) == set()
    assert list(runner.test_loop.evaluator.result.scores) == ['']


def test_test_only_unless_asked(build):
    runner = build(custom_hooks=HOOK, rerank='mr', rerank_cfg=dict(mr=dict(k=9)))
    assert prefixes(runner.val()) == set()
    metrics = runner.test()
    assert prefixes(metrics) == {'mr'}
    assert runner.test_loop.evaluator.rerankers['mr'].options == {'k': 9}
    result = runner.test_loop.evaluator.result
    assert metrics['mr/i2t/R@1'] == pytest.approx(100 * (result.ranks['mr']['i2t'] < 1).double().mean().item())


def test_validation_where_it_is_asked_for(build):
    runner = build(custom_hooks=[dict(type='galr_mm.RerankHook', validation=True)], rerank=['mr', 'rr'])
    assert prefixes(runner.val()) == {'mr', 'rr'}


def test_unknown_name_fails_before_the_first_batch(build, monkeypatch):
    runner = build(custom_hooks=HOOK, rerank='foo')
    monkeypatch.setattr(runner.model, 'forward', lambda *a, **k: pytest.fail('a batch was run'))
    with pytest.raises(KeyError, match='foo'):
        runner.test()


def test_recall_in_a_config_without_our_evaluator(build):
    """val_evaluator=dict(type='galr_mm.RecallAtK'), under mmengine's own Evaluator."""
    ours = build().test()
    plain = dict(_delete_=True, type='galr_mm.RecallAtK')
    assert build(test_evaluator=plain).test() == ours
    with pytest.raises(TypeError, match=r'Evaluator.*galr_mm.RetrievalEvaluator'):
        build(test_evaluator=plain, custom_hooks=HOOK, rerank='mr').test()


def test_ranked_hits_of_a_part_of_the_data(build, tmp_path, monkeypatch):
    """Rows of the result are not rows of the data set."""
    drawn = {}

    def draw(rows, path, title):
        drawn[path.name] = rows
        return ranked_hits.draw_ranked_hits(rows, path, title)

    monkeypatch.setattr('galr_mm.visualization.draw_ranked_hits', draw)
    runner = build(
        custom_hooks=[
            *HOOK,
            dict(type='galr_mm.RankedHitsHook', out_dir=str(tmp_path / 'show'), num_queries=4, topk=3),
        ],
        rerank='mr',
        rerank_cfg=dict(mr=dict(k=2)),
        **{'test_dataloader.dataset.indices': [8, 2, 5]},
    )
    runner.test()
    assert sorted(drawn) == ['mr_hits.png', 'raw_hits.png']
    assert (tmp_path / 'show/mr_hits.png').stat().st_size > 10_000
    dataset = runner.test_loop.dataloader.dataset
    infos = {info['img_path']: info for info in map(dataset.get_data_info, range(3))}
    result = runner.test_loop.evaluator.result
    assert result.image_ids == [2, 5, 8]
    for name, rows in drawn.items():
        full = result.scores['mr' if 'mr' in name else ''].matrices().t2i
        assert len(rows) == 4
        for caption, hits in rows:
            scores = full[result.texts.index(caption)]
            assert [hit.score for hit in hits] == scores.sort(descending=True).values.tolist()
            for hit in hits:
                info = infos[hit.img_path]
                assert hit.positive == (caption in info['text'])
                detections = info['detections']
                height, width = detections.image_size
                sure = detections.boxes[detections.scores >= 0.3]
                np.testing.assert_allclose(hit.boxes * [width, height, width, height], sure, rtol=1e-5)


def test_a_model_without_a_local_branch_has_seen_no_objects(build, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr('galr_mm.visualization.draw_ranked_hits', lambda rows, path, title: drawn.extend(rows))
    hook = dict(type='galr_mm.RankedHitsHook', out_dir=str(tmp_path / 'show'), num_queries=2)
    build(custom_hooks=[hook], **{'model.local': None}).test()
    assert drawn
    assert all(hit.boxes is None or not len(hit.boxes) for _, hits in drawn for hit in hits)


def test_a_positive_that_is_not_among_those_shown():
    """Caption 0 has its image in place 3 of 4, caption 1 in the first; a caption without a positive gets no more."""
    t2i = torch.tensor([[0.1, 0.9, 0.8, 0.0], [0.2, 0.9, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1]])
    positives = torch.zeros(4, 3, dtype=torch.bool)
    positives[0, 0] = positives[1, 1] = True
    scores = RetrievalScores(t2i.t(), t2i, positives)
    result = RetrievalResult({'': scores}, [0, 1, 2, 3], list('abcd'), [0, 1, 2], ['x', 'y', 'z'])
    hook = RankedHitsHook('.', topk=2)
    boxes = {'a': np.zeros((1, 4))}
    rows = [hook._hits(result, query, '', boxes) for query in range(3)]
    assert [[hit.img_path for hit in hits] for hits in rows] == [['b', 'c', 'a'], ['b', 'a'], ['a', 'b']]
    assert [[hit.rank for hit in hits] for hits in rows] == [[None, None, 3], [None, None], [None, None]]
    assert rows[0][2] == Hit('a', None, True, boxes['a'], 3)
    assert [hit.positive for hit in rows[1]] == [True, False]


@pytest.mark.slow
def test_concatenated_sets_on_a_runner(build, mini_config, tmp_path, monkeypatch):
    """Each image and its captions once, with the objects of its own set."""
    drawn = []
    monkeypatch.setattr('galr_mm.visualization.draw_ranked_hits', lambda rows, path, title: drawn.extend(rows))
    cfg = Config.fromfile(mini_config)
    parts = [{**cfg[f'{split}_dataloader'].dataset.to_dict(), 'indices': SMALL[split]} for split in ('val', 'test')]
    both = dict(_delete_=True, type='ConcatDataset', datasets=parts, ignore_keys=['ann_file', 'split', *COUNTS])
    hook = dict(type='galr_mm.RankedHitsHook', out_dir=str(tmp_path / 'show'), num_queries=2, topk=99)
    runner = build(custom_hooks=[hook], **{'test_dataloader.dataset': both})
    runner.test()
    result, total = runner.test_loop.evaluator.result, SMALL['val'] + SMALL['test']
    infos = [DATASETS.build(dict(part, pipeline=[])).get_data_info(i) for part in parts for i in range(part['indices'])]
    assert result.image_ids == list(range(total))
    assert result.image_paths == [info['img_path'] for info in infos]
    assert result.texts == [text for info in infos for text in info['text']]
    assert torch.equal(result.positives, torch.eye(total).repeat_interleave(5, dim=1).bool())
    boxes = {info['img_path']: info['detections'].relative_boxes().numpy() for info in infos}
    for _, hits in drawn:
        assert {hit.img_path for hit in hits} == set(boxes)
        for hit in hits:
            np.testing.assert_array_equal(hit.boxes, boxes[hit.img_path])


@pytest.mark.parametrize(
    ('cfg', 'count'),
    [
        (dict(), 0),
        (dict(rerank='mr'), 1),
        (dict(rerank='mr', custom_hooks=[dict(type='EmptyCacheHook')]), 2),
        (dict(rerank='mr', custom_hooks=[dict(type='galr_mm.RerankHook')]), 1),
    ],
)
def test_hook_is_never_missing(cfg, count):
    cfg = Config(cfg)
    ensure_rerank_hook(cfg)
    assert len(cfg.get('custom_hooks', [])) == count


def test_a_query_bank_of_some_training_images(build):
    """What the training split gives under the test pipeline, without what the re-ranker does not want."""
    hook = [dict(type='galr_mm.RerankHook', bank_images=7, bank_seed=1)]
    runner = build(custom_hooks=hook, rerank='qbnorm')
    runner.test()
    scores = runner.test_loop.evaluator.result.raw
    assert scores.bank_i2t.shape == (7, scores.i2t.shape[1])
    assert scores.bank_t2i.shape == (35, scores.i2t.shape[0])
    split = {f'test_dataloader.dataset.{name}': value for name, value in TRAIN.items()}
    other = build(**split)
    other.model.load_state_dict(runner.model.state_dict())
    other.test()
    chosen = sorted(np.random.default_rng(1).choice(SMALL['train'], 7, replace=False).tolist())
    result = other.test_loop.evaluator.result
    assert result.image_ids == list(range(SMALL['train']))
    dataset = runner.test_loop.evaluator.query_bank.loader.dataset
    assert [dataset.get_data_info(i)['img_path'] for i in range(7)] == [result.image_paths[i] for i in chosen]
    bank = runner.test_loop.evaluator.query_bank()
    rows = bank.image_feat @ bank.text_feat.t()
    columns = torch.tensor([5 * i + j for i in chosen for j in range(5)])
    torch.testing.assert_close(rows, result.raw.i2t[chosen][:, columns], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ('captions', 'indices', 'images'),
    [('all', [0, 2, 5], [0, 2, 5]), ('each', [0, 4, 7, 29], [0, 1, 5]), ('all', 4, [0, 1, 2, 3])],
)
def test_a_bank_of_what_is_trained_on(build, captions, indices, images):
    """``indices`` are of images or, where each caption is a sample, of captions: five an image here."""
    changes = dict(captions=captions, indices=indices, test_mode=False)
    options = {f'train_dataloader.dataset.{key}': value for key, value in changes.items()}
    runner = build(custom_hooks=HOOK, rerank='qbnorm', **options)
    runner.test()
    dataset = runner.test_loop.evaluator.query_bank.loader.dataset
    assert [dataset.get_data_info(i)['image_id'].row for i in range(len(dataset))] == images
    assert len(runner.test_loop.evaluator.result.raw.bank_i2t) == len(images)


TRAIN = dict(split='train', proposal_file='instances_train.json')


def test_no_bank_where_none_is_wanted(build, monkeypatch):
    runner = build(custom_hooks=HOOK, rerank='dsl')
    runner.test()
    assert runner.test_loop.evaluator.query_bank is None
    assert runner.test_loop.evaluator.result.raw.bank_i2t is None


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (
            {'train_dataloader': None, 'train_cfg': None, 'optim_wrapper': None, 'param_scheduler': None},
            ValueError,
            'it has no train_dataloader',
        ),
        (
            {'train_dataloader.dataset': dict(_delete_=True, type='ConcatDataset', datasets=[])},
            ValueError,
            'a train_dataloader.dataset of another type',
        ),
        ({'test_evaluator': dict(_delete_=True, type='galr_mm.RecallAtK')}, TypeError, 'rerank=qbnorm needs features'),
    ],
)
def test_a_bank_that_cannot_be_made_fails_before_the_first_batch(build, monkeypatch, options, error, message):
    runner = build(custom_hooks=HOOK, rerank='qbnorm', **options)
    monkeypatch.setattr(runner.model, 'forward', lambda *a, **k: pytest.fail('a batch was run'))
    with pytest.raises(error, match=message):
        runner.test()


@pytest.mark.parametrize('images', [0, 2.5, 'all'])
def test_a_wrong_number_of_bank_images(images):
    with pytest.raises(ValueError, match='bank_images is'):
        RerankHook(bank_images=images)
