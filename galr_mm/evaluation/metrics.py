from __future__ import annotations

from collections.abc import Sequence

from galr_mm.evaluation.functional import recall_at_k
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
        result = {}
        for name, matrix, positives in (
            ('i2t', scores.i2t, scores.positives),
            ('t2i', scores.t2i, scores.positives.t()),
        ):
            result |= {f'{name}/R@{k}': value for k, value in recall_at_k(matrix, positives, self.topk).items()}
        result['mR'] = sum(result.values()) / len(result)
        return result
