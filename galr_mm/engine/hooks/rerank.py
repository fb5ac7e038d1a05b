from __future__ import annotations

from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from galr_mm.evaluation import RetrievalEvaluator, build_rerankers
from galr_mm.evaluation.rerankers import Reranker
from galr_mm.registry import HOOKS
from galr_mm.structures import RetrievalScores

UNSCORED = -100.0  # what mmpretrain's two-stage retrievers leave at pairs that their second stage did not score


@HOOKS.register_module()
class RerankHook(Hook):
    """Re-ranks the scores of a test, as ``runner.cfg.rerank`` says: ``--cfg-options rerank=mr rerank_cfg.mr.k=20``.

    Inert unless ``rerank`` is set. An unknown name fails before the first batch. Validation is left alone unless asked
    for: re-ranking there would change which checkpoint is chosen.

    It serves :class:`galr_mm.RetrievalEvaluator`, and any model with ``predict_all`` under mmpretrain's
    ``RetrievalTestLoop``: there the loop's own metrics of the raw scores stay, and the same metrics of the re-ranked
    scores stand beside them, ``mr/i2t/retrieval/Recall@1``.

    Args:
        validation: whether to re-rank validation too.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which hands the metrics to the loggers

    def __init__(self, validation: bool = False) -> None:
        self.validation = validation
        self.rerankers: dict[str, Reranker] = {}
        self.predictions: tuple[list, list] | None = None  # what predict_all gave, under mmpretrain's loop

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
        self._measure(runner.test_loop, metrics)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Measure re-ranked predictions of mmpretrain's loop."""
        if self.validation:
            self._measure(runner.val_loop, metrics)

    def _install(self, runner: Runner, loop: Any) -> None:
        self.predictions = None
        if not self.rerankers:
            return
        dataset = loop.dataloader.dataset
        images, captions = getattr(dataset, 'img_size', None), getattr(dataset, 'text_size', None)
        if 0 in (images, captions):
            raise ValueError(
                f'rerank is set, but the data set has {images} images and {captions} captions; re-ranking compares '
                'the two'
            )
        if isinstance(loop.evaluator, RetrievalEvaluator):
            loop.evaluator.rerankers = self.rerankers
            return
        from mmpretrain.engine.runners import RetrievalTestLoop, RetrievalValLoop

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(loop, (RetrievalTestLoop, RetrievalValLoop)) or not hasattr(model, 'predict_all'):
            raise TypeError(
                f'rerank is set, but under {type(loop).__name__} the evaluator is a {type(loop.evaluator).__name__}; '
                "re-ranking needs test_evaluator=dict(type='galr_mm.RetrievalEvaluator', metrics=[...]), or "
                "mmpretrain's RetrievalTestLoop with a model that has predict_all"
            )
        sampler = getattr(loop.dataloader, 'sampler', None)
        if (
            get_world_size() > 1
            and isinstance(sampler, DefaultSampler)
            and getattr(sampler, 'subsample_type', 'default') != 'sequential'
        ):
            raise ValueError(
                "mmpretrain's RetrievalTestLoop numbers the samples of several processes one process after the other; "
                "it needs sampler=dict(type='mmpretrain.SequentialSampler', subsample_type='sequential'), got "
                f'{type(sampler).__name__}'
            )
        self._listen(model)

    def _listen(self, model: torch.nn.Module) -> None:
        """Put a ``predict_all`` on the model that remembers its predictions and takes itself off again."""
        if getattr(model.predict_all, 'listens', False):  # still there after a test that failed
            del model.predict_all
        predict_all = model.predict_all

        def listening(feats: dict[str, Tensor], *args: Any, **kwargs: Any) -> tuple:
            del model.predict_all
            missing = {'image_feat', 'text_feat'} - feats.keys()
            if len(missing) == 1:
                raise ValueError(
                    f'rerank is set, but the test set gave no {missing.pop()}: it needs images and captions'
                )
            self.predictions = predict_all(feats, *args, **kwargs)
            return self.predictions

        listening.listens = True
        model.predict_all = listening

    def _measure(self, loop: Any, metrics: dict[str, float] | None) -> None:
        if self.predictions is None or metrics is None:
            return
        sizes = dict(i2t=loop.dataloader.dataset.img_size, t2i=loop.dataloader.dataset.text_size)
        samples = dict(zip(sizes, self.predictions, strict=True))
        self.predictions = None
        scores, own = gather_scores(samples['i2t'], samples['t2i'], *sizes.values())
        for prefix, rerank in self.rerankers.items():
            print_log(f'{prefix}: {rerank!r}', 'current')
            reranked = rerank(scores)
            for direction, size in sizes.items():
                rows = getattr(reranked, direction)[own[direction]]
                loop.evaluator.process(with_scores(samples[direction], rows), None)
                result = loop.evaluator.evaluate(size)
                metrics.update({f'{prefix}/{direction}/{name}': value for name, value in result.items()})


def gather_scores(
    i2t: list, t2i: list, num_images: int, num_texts: int
) -> tuple[RetrievalScores, dict[str, list[int]]]:
    """Scores of all processes from the samples of this one, and which of their rows are this process's.

    Each process holds a contiguous share; the last shares may end with the first samples again, as padding.
    """
    own, matrices = {}, {}
    for name, samples, size in (('i2t', i2t, num_images), ('t2i', t2i, num_texts)):
        shares = all_gather_object(torch.stack([sample.pred_score.float().cpu() for sample in samples]))
        first = sum(len(share) for share in shares[: get_rank()])
        own[name] = [(first + number) % size for number in range(len(samples))]
        matrices[name] = torch.cat(shares)[:size]
    labels = [label for part in all_gather_object([_labels(sample) for sample in i2t]) for label in part]
    positives = torch.zeros(num_images, num_texts, dtype=torch.bool)
    for row, label in enumerate(labels[:num_images]):
        positives[row, label] = True
    filled = min(matrix.min() for matrix in matrices.values()) == UNSCORED
    return RetrievalScores(**matrices, positives=positives, filler=UNSCORED if filled else None), own


def _labels(sample: Any) -> list[int]:
    label = sample.get('gt_label')
    return [] if label is None else torch.as_tensor(label).flatten().tolist()


def with_scores(samples: list, scores: Tensor) -> list:
    """Copies of mmpretrain samples with other scores."""
    copies = [sample.new() for sample in samples]
    for sample, row in zip(copies, scores, strict=True):
        device = sample.pred_score.device
        sample.set_pred_score(row.to(device)).set_pred_label(row.argmax(keepdim=True).to(device))
    return copies
