from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from galr_mm.engine.hooks.mmpretrain_rerank import MMPretrainRerank
from galr_mm.engine.hooks.training_bank import TrainingBank
from galr_mm.evaluation import RetrievalEvaluator, build_rerankers
from galr_mm.evaluation.rerankers import Reranker
from galr_mm.registry import HOOKS
from galr_mm.utils.wrappers import unwrapped


@HOOKS.register_module()
class RerankHook(Hook):
    """Re-ranks the scores of a test, as ``runner.cfg.rerank`` says: ``--cfg-options rerank=mr rerank_cfg.mr.k=20``.

    Inert unless ``rerank`` is set. An unknown name fails before the first batch. Validation is left alone unless asked
    for: re-ranking there would change which checkpoint is chosen.

    It serves :class:`galr_mm.RetrievalEvaluator`, and any model with ``predict_all`` under mmpretrain's
    ``RetrievalTestLoop``: there the loop's own metrics of the raw scores stay, and the same metrics of the re-ranked
    scores stand beside them, ``mr/i2t/retrieval/Recall@1``.

    A re-ranker that wants a query bank (``rerank=qbnorm``, ``rerank=dsl rerank_cfg.dsl.bank=True``) gets the images of
    ``train_dataloader`` and their captions, encoded after the test with the test pipeline, by all processes.

    Args:
        validation: whether to re-rank validation too.
        bank_images: at most so many training images, with all their captions, are in a query bank; None for all.
        bank_seed: of the choice among more.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which hands the metrics to the loggers

    def __init__(self, validation: bool = False, bank_images: int | None = 2000, bank_seed: int = 0) -> None:
        if bank_images is not None and (not isinstance(bank_images, int) or bank_images < 1):
            raise ValueError(f'bank_images is {bank_images!r}, expected None or a whole number of 1 or more')
        self.validation = validation
        self.bank_images = bank_images
        self.bank_seed = bank_seed
        self.rerankers: dict[str, Reranker] = {}
        self.mmpretrain: MMPretrainRerank | None = None  # where the loop is one of mmpretrain's

    def before_run(self, runner: Runner) -> None:
        """Build the re-rankers, so that a wrong setting fails at once."""
        self.rerankers = build_rerankers(runner.cfg.get('rerank'), runner.cfg.get('rerank_cfg'))

    def before_test_epoch(self, runner: Runner) -> None:
        """Hand the re-rankers to the evaluator of the test, or listen to the model's predictions."""
        self._install(runner, runner.test_loop)

    def before_val_epoch(self, runner: Runner) -> None:
        """Do the same for validation where that was asked for."""
        if self.validation:
            self._install(runner, runner.val_loop)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Measure re-ranked predictions of mmpretrain's loop."""
        self._measure(metrics)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Measure re-ranked predictions of mmpretrain's loop."""
        if self.validation:
            self._measure(metrics)

    def _install(self, runner: Runner, loop: Any) -> None:
        self.mmpretrain = None
        if not self.rerankers:
            return
        dataset = loop.dataloader.dataset
        images, captions = getattr(dataset, 'img_size', None), getattr(dataset, 'text_size', None)
        if 0 in (images, captions):
            raise ValueError(
                f'rerank is set, but the data set has {images} images and {captions} captions; re-ranking compares '
                'the two'
            )
        model = unwrapped(runner.model)
        wanting = [prefix for prefix, rerank in self.rerankers.items() if getattr(rerank, 'needs_bank', False)]
        if isinstance(loop.evaluator, RetrievalEvaluator):
            loop.evaluator.rerankers = self.rerankers
            loop.evaluator.query_bank = (
                TrainingBank(runner, loop, self.bank_images, self.bank_seed) if wanting else None
            )
        elif wanting:
            raise TypeError(
                f'rerank={wanting[0]} needs features of training queries, which only '
                "test_evaluator=dict(type='galr_mm.RetrievalEvaluator', metrics=[...]) takes; under "
                f'{type(loop).__name__} the evaluator is a {type(loop.evaluator).__name__}'
            )
        elif MMPretrainRerank.fits(loop, model):
            self.mmpretrain = MMPretrainRerank(self.rerankers, loop, model)
        else:
            raise TypeError(
                f'rerank is set, but under {type(loop).__name__} the evaluator is a {type(loop.evaluator).__name__}; '
                "re-ranking needs test_evaluator=dict(type='galr_mm.RetrievalEvaluator', metrics=[...]), or "
                "mmpretrain's RetrievalTestLoop with a model that has predict_all"
            )

    def _measure(self, metrics: dict[str, float] | None) -> None:
        if self.mmpretrain is not None and metrics is not None:
            self.mmpretrain.measure(metrics)
        self.mmpretrain = None
