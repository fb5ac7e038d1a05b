"""Re-ranking under mmpretrain's own retrieval loops, whose models score all pairs by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from torch import Tensor

from galr_mm.evaluation.rerankers import Reranker
from galr_mm.structures import RetrievalScores

UNSCORED = -100.0  # what mmpretrain's two-stage retrievers leave at pairs that their second stage did not score


class MMPretrainRerank:
    """Listens to the predictions of a model under mmpretrain's loop, and measures them again once re-ranked.

    Args:
        rerankers: by the prefix that their metrics get.
        loop: mmpretrain's RetrievalTestLoop or RetrievalValLoop.
        model: with ``predict_all``, not wrapped.

    Raises:
        ValueError: for a sampler with which the loop mixes up the samples of several processes.
    """

    def __init__(self, rerankers: Mapping[str, Reranker], loop: Any, model: torch.nn.Module) -> None:
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
        self.rerankers = rerankers
        self.loop = loop
        self.predictions: tuple[list, list] | None = None  # what predict_all gave
        self._listen(model)

    @staticmethod
    def fits(loop: Any, model: torch.nn.Module) -> bool:
        """Whether this is such a loop with such a model."""
        from mmpretrain.engine.runners import RetrievalTestLoop, RetrievalValLoop

        return isinstance(loop, (RetrievalTestLoop, RetrievalValLoop)) and hasattr(model, 'predict_all')

    def _listen(self, model: Any) -> None:
        """Put a ``predict_all`` on the model that remembers its predictions and takes itself off again."""
        vars(model).pop('predict_all', None)  # still there after a test that failed
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

        model.predict_all = listening

    def measure(self, metrics: dict[str, float]) -> None:
        """Add the loop's own metrics of the re-ranked predictions to ``metrics``, ``mr/i2t/retrieval/Recall@1``."""
        if self.predictions is None:
            return
        dataset, evaluator = self.loop.dataloader.dataset, self.loop.evaluator
        sizes = dict(i2t=dataset.img_size, t2i=dataset.text_size)
        samples = dict(zip(sizes, self.predictions, strict=True))
        scores, own = gather_scores(samples['i2t'], samples['t2i'], *sizes.values())
        for prefix, rerank in self.rerankers.items():
            print_log(f'{prefix}: {rerank!r}', 'current')
            reranked = rerank(scores)
            for direction, size in sizes.items():
                rows = getattr(reranked, direction)[own[direction]]
                evaluator.process(with_scores(samples[direction], rows), None)
                result = evaluator.evaluate(size)
                metrics.update({f'{prefix}/{direction}/{name}': value for name, value in result.items()})


def gather_scores(
    i2t: list, t2i: list, num_images: int, num_texts: int
) -> tuple[RetrievalScores, dict[str, list[int]]]:
    """Scores of all processes from the samples of this one, and which of their rows are this process's.

    Each process holds a contiguous part; the last parts may end with the first samples again, as padding.
    """
    own, matrices = {}, {}
    for name, samples, size in (('i2t', i2t, num_images), ('t2i', t2i, num_texts)):
        parts = all_gather_object(torch.stack([sample.pred_score.float().cpu() for sample in samples]))
        first = sum(len(part) for part in parts[: get_rank()])
        own[name] = [(first + position) % size for position in range(len(samples))]
        matrices[name] = torch.cat(parts)[:size]
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
