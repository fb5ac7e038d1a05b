from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator

from galr_mm.cli.common import ensure_rerank_hook
from galr_mm.engine.hooks import RerankHook
from galr_mm.evaluation import RetrievalEvaluator


def runner(evaluator=None, **cfg):
    evaluator = evaluator or RetrievalEvaluator(metrics=[dict(type='galr_mm.RecallAtK')])
    dataset = SimpleNamespace(img_size=4, text_size=20)
    loop = SimpleNamespace(evaluator=evaluator, dataloader=SimpleNamespace(dataset=dataset))
    return SimpleNamespace(cfg=Config(cfg), test_loop=loop, val_loop=loop, model=torch.nn.Identity())


def test_inert_by_default():
    r, hook = runner(), RerankHook()
    hook.before_run(r)
    hook.before_test_epoch(r)
    assert r.test_loop.evaluator.rerankers == {}


def test_test_only_unless_asked():
    r, hook = runner(rerank='mr', rerank_cfg=dict(mr=dict(k=9))), RerankHook()
    hook.before_run(r)
    hook.before_val_epoch(r)
    assert r.val_loop.evaluator.rerankers == {}
    hook.before_test_epoch(r)
    assert r.test_loop.evaluator.rerankers['mr'].options == {'k': 9}

    r, hook = runner(rerank='mr'), RerankHook(validation=True)
    hook.before_run(r)
    hook.before_val_epoch(r)
    assert list(r.val_loop.evaluator.rerankers) == ['mr']


def test_unknown_name_fails_before_the_run():
    with pytest.raises(KeyError, match='foo'):
        RerankHook().before_run(runner(rerank='foo'))


def test_foreign_evaluator_is_refused():
    r, hook = runner(Evaluator([]), rerank='mr'), RerankHook()
    hook.before_run(r)
    with pytest.raises(TypeError, match=r'Evaluator.*galr_mm.RetrievalEvaluator'):
        hook.before_test_epoch(r)


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
