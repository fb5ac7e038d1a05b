from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from galr_mm.functional import find_candidates, multivariate_scores, recall_from_ranks, reranked_ranks
from galr_mm.functional.rerank.checks import check_options, prepare
from galr_mm.structures import RetrievalScores

KS = (5, 10, 20, 30, 50, 100)
SIGNIFICANCE_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
REVERSE_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.1, 1.5, 2.0, 4.0)


class SweepPoint(NamedTuple):
    """A setting of the multivariate rerank and the mean recall it gives, in percent."""

    k: int
    weights: tuple[float, float, float]
    mean_recall: float


def sweep_multivariate(
    scores: RetrievalScores,
    ks: Sequence[int] = KS,
    significance_weights: Sequence[float] = SIGNIFICANCE_WEIGHTS,
    reverse_weights: Sequence[float] = REVERSE_WEIGHTS,
    significance: str = 'ratio',
    topk: Sequence[int] = (1, 5, 10),
    **formula: Any,
) -> tuple[float, list[SweepPoint]]:
    """Mean recall of the multivariate rerank over a grid of k and weights; the forward weight stays 1.

    Candidates are found once for the largest k, so a setting costs milliseconds. Use a validation split.

    Args:
        scores: raw scores.
        ks: values of k.
        significance_weights: values of the first weight.
        reverse_weights: values of the third weight.
        significance: 'ratio', 'softmax', or 'off', which leaves the first weight at 0.
        topk: k of the recalls whose mean is taken.
        **formula: decay, reverse and reverse_top of :func:`galr_mm.functional.multivariate_rerank`.

    Returns:
        The mean recall of the raw scores, and a point for each setting.

    Raises:
        ValueError: when a direction has no query with a positive, and as
            :func:`galr_mm.functional.multivariate_rerank`.
    """
    if not ks:
        raise ValueError('ks is empty, expected integers of 1 or more')
    for k, w_s, w_r in product(ks, significance_weights, reverse_weights):
        check_options(k, (w_s, 1.0, w_r), significance=significance, **formula)
    if significance == 'off':
        significance_weights = (0.0,)
    raw = _mean_recall(scores.ranks.values(), topk)
    directions = []
    for name, own, other, positives in (
        ('i2t', scores.i2t, scores.t2i, scores.positives),
        ('t2i', scores.t2i, scores.i2t, scores.positives.t()),
    ):
        candidates, _ = find_candidates(prepare(own), max(ks), prepare(other), significance, scores.filler)
        directions.append((candidates, positives, scores.ranks[name]))
    points = []
    for k in sorted(set(ks)):
        cut = [(candidates.first(k), positives, ranks) for candidates, positives, ranks in directions]
        for w_s, w_r in product(significance_weights, reverse_weights):
            weights = (w_s, 1.0, w_r)
            new = [reranked_ranks(c, multivariate_scores(c, weights, **formula), p, ranks) for c, p, ranks in cut]
            points.append(SweepPoint(k, weights, _mean_recall(new, topk)))
    return raw, points


def _mean_recall(ranks: Iterable[Tensor], topk: Sequence[int]) -> float:
    recalls = [recall for direction in ranks for recall in recall_from_ranks(direction, topk).values()]
    return sum(recalls) / len(recalls)
