from __future__ import annotations

from collections.abc import Sequence

from galr_mm.functional import chance_recall_at_k, recall_at_k
from galr_mm.registry import METRICS
from galr_mm.structures import RetrievalScores


@METRICS.register_module()
class RecallAtK:
    """Recall at k in both directions and their mean, in percent (the protocol of RSICD, RSITMD, UCM and Sydney).

    Args:
        topk: the values of k.

    Example:
        >>> import torch
        >>> scores = RetrievalScores.from_matrix(torch.eye(2).repeat_interleave(2, dim=1), captions_per_image=2)
        >>> RecallAtK(topk=(1,))(scores)
        {'i2t/R@1': 100.0, 't2i/R@1': 100.0, 'mR': 100.0}
    """

    tie_rule = 'equal similarities are ordered by lower index'

    def __init__(self, topk: Sequence[int] = (1, 5, 10)) -> None:
        if not topk or min(topk) < 1:
            raise ValueError(f'topk is {topk}, expected numbers of 1 or more')
        self.topk = tuple(topk)

    def __call__(self, scores: RetrievalScores) -> dict[str, float]:
        """Names ``i2t/R@k``, ``t2i/R@k`` and ``mR``, the mean of all of them."""
        i2t = recall_at_k(scores.i2t, scores.positives, self.topk)
        t2i = recall_at_k(scores.t2i, scores.positives.t(), self.topk)
        return self._named(i2t, t2i)

    def chance(self, scores: RetrievalScores) -> dict[str, float]:
        """The same names for a random ranking."""
        i2t = chance_recall_at_k(scores.positives, self.topk)
        t2i = chance_recall_at_k(scores.positives.t(), self.topk)
        return self._named(i2t, t2i)

    @staticmethod
    def _named(i2t: dict[int, float], t2i: dict[int, float]) -> dict[str, float]:
        result = {f'{name}/R@{k}': v for name, recalls in (('i2t', i2t), ('t2i', t2i)) for k, v in recalls.items()}
        return result | {'mR': sum(result.values()) / len(result)}
