from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from galr_mm.evaluation import RetrievalEvaluator, build_rerankers
from galr_mm.registry import HOOKS


@HOOKS.register_module()
class RerankHook(Hook):
    """Re-ranks the scores of a test, as ``runner.cfg.rerank`` says: ``--cfg-options rerank=mr rerank_cfg.mr.k=20``.

    Inert unless ``rerank`` is set. An unknown name fails before the first batch. Validation is left alone unless asked
    for: re-ranking there would change which checkpoint is chosen.

    Args:
        validation: whether to re-rank validation too.
    """

    def __init__(self, validation: bool = False) -> None:
        self.validation = validation
        self.rerankers = {}

    def before_run(self, runner: Runner) -> None:
        """Build the re-rankers, so that a wrong setting fails at once."""
        self.rerankers = build_rerankers(runner.cfg.get('rerank'), runner.cfg.get('rerank_cfg'))

    def before_test_epoch(self, runner: Runner) -> None:
        """Hand the re-rankers to the evaluator of the test."""
        self._hand_over(runner.test_loop.evaluator)

    def before_val_epoch(self, runner: Runner) -> None:
        """Hand the re-rankers to the evaluator of the validation where that was asked for."""
        if self.validation:
            self._hand_over(runner.val_loop.evaluator)

    def _hand_over(self, evaluator: object) -> None:
        if not self.rerankers:
            return
        if not isinstance(evaluator, RetrievalEvaluator):
            raise TypeError(
                f'rerank is set, but the evaluator is a {type(evaluator).__name__}; re-ranking needs '
                "test_evaluator=dict(type='galr_mm.RetrievalEvaluator', metrics=[...])"
            )
        evaluator.rerankers = self.rerankers
