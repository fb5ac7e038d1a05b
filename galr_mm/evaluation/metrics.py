from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from torch import Tensor

from galr_mm.evaluation.gathering import evaluate_gathered, record_of, result_of
from galr_mm.functional import chance_recall_at_k, recall_from_ranks
from galr_mm.registry import METRICS


@METRICS.register_module()
class RecallAtK(BaseMetric):
    """Recall at k in both directions and their mean, in percent (the protocol of RSICD, RSITMD, UCM and Sydney).

    :class:`galr_mm.RetrievalEvaluator` measures it for raw and re-ranked scores. It is a metric of mmengine as well:
    ``val_evaluator=dict(type='galr_mm.RecallAtK')`` gives the same values, without table, re-ranking and ``--out``.

    Args:
        topk: the values of k.

    Example:
        >>> import torch
        >>> RecallAtK(topk=(1, 2))(dict(i2t=torch.tensor([0, 1]), t2i=torch.tensor([0, 0, 0, 1])))
        {'i2t/R@1': 50.0, 'i2t/R@2': 100.0, 't2i/R@1': 75.0, 't2i/R@2': 100.0, 'mR': 81.25}
    """

    default_prefix = ''
    tie_rule = 'equal similarities are ordered by lower index'

    def __init__(self, topk: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__()
        self.results: list[dict] = []
        if not isinstance(topk, Sequence) or not topk or any(not isinstance(k, int) or k < 1 for k in topk):
            raise ValueError(f'topk is {topk}, expected integers of 1 or more')
        self.topk = tuple(topk)

    def __call__(self, ranks: Mapping[str, Tensor]) -> dict[str, float]:
        """Names ``i2t/R@k``, ``t2i/R@k`` and ``mR``, the mean of all of them.

        Args:
            ranks: 0-based ranks of the best positive, 'i2t' (I,) and 't2i' (T,), -1 for queries without one.
        """
        return self._named(*(recall_from_ranks(ranks[direction], self.topk) for direction in ('i2t', 't2i')))

    def chance(self, positives: Tensor) -> dict[str, float]:
        """The same names for a random ranking.

        Args:
            positives: bool (I, T), true where a caption describes an image.
        """
        return self._named(*(chance_recall_at_k(side, self.topk) for side in (positives, positives.t())))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take what ``model(..., mode='predict')`` gave for a batch."""
        self.results += [record_of(sample) for sample in data_samples]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """The metrics of a split from the records of its images."""
        return self(result_of(results).raw.ranks)

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather by image id, not by order as mmengine does, so that any sampler will do; then measure."""
        results = list(self.results)
        self.results.clear()
        return evaluate_gathered(results, size, self.compute_metrics)

    @staticmethod
    def _named(i2t: dict[int, float], t2i: dict[int, float]) -> dict[str, float]:
        result = {f'{name}/R@{k}': v for name, recalls in (('i2t', i2t), ('t2i', t2i)) for k, v in recalls.items()}
        return result | {'mR': sum(result.values()) / len(result)}
