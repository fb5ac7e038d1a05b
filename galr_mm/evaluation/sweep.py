from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galr_mm.functional import retrieval_ranks
from galr_mm.functional.rerank.checks import check_multivariate
from galr_mm.functional.rerank.multivariate import Candidates, find_candidates, multivariate_scores
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
        **formula: decay, reverse and reverse_top of :func:`galr_mm.evaluation.multivariate_rerank`.

    Returns:
        The mean recall of the raw scores, and a point for each setting.

    Raises:
        ValueError: when a direction has no query with a positive, and as
            :func:`galr_mm.evaluation.multivariate_rerank`.
    """
    if not ks:
        raise ValueError('ks is empty, expected numbers of 1 or more')
    settings = dict(decay=0.05, reverse='ordinal', reverse_top=None) | formula
    for k, w_s, w_r in product(ks, significance_weights, reverse_weights):
        check_multivariate(k, (w_s, 1.0, w_r), significance=significance, **settings)
    if significance == 'off':
        significance_weights = (0.0,)
    directions = []
    for own, other, positives in (
        (scores.i2t, scores.t2i, scores.positives),
        (scores.t2i, scores.i2t, scores.positives.t()),
    ):
        candidates, _ = find_candidates(own, max(ks), other, significance, scores.filler)
        directions.append((candidates, positives.gather(1, candidates.index), retrieval_ranks(own, positives)))
    for name, (_, _, ranks) in zip(('i2t', 't2i'), directions, strict=True):
        if not (ranks >= 0).any():
            raise ValueError(f'{name} has no query with a positive')
    raw = _mean_recall([ranks for _, _, ranks in directions], topk)
    points = []
    for k in sorted(set(ks)):
        cut = [(first_candidates(c, k), right[:, :k], ranks) for c, right, ranks in directions]
        for w_s, w_r in product(significance_weights, reverse_weights):
            weights = (w_s, 1.0, w_r)
            new = [ranks_after(c, multivariate_scores(c, weights, **formula), right, ranks) for c, right, ranks in cut]
            points.append(SweepPoint(k, weights, _mean_recall(new, topk)))
    return raw, points


def first_candidates(candidates: Candidates, k: int) -> Candidates:
    """The k first of more candidates, as :func:`find_candidates` would have given them."""
    return Candidates(*(None if values is None else values[:, :k] for values in candidates))


def ranks_after(candidates: Candidates, scores: Tensor, right: Tensor, ranks: Tensor) -> Tensor:
    """0-based ranks of the best positive once the candidates are ordered by their scores.

    Shapes:
        - scores: (Q, k)
        - right: bool (Q, k), candidates that are positives
        - ranks: int64 (Q,), ranks before, which queries with no positive among their candidates keep
    """
    if candidates.valid is not None:
        scores, right = scores.masked_fill(~candidates.valid, -torch.inf), right & candidates.valid
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    first = torch.where(right & (scores == best), candidates.index, candidates.index.max() + 1).amin(1, keepdim=True)
    before = (scores > best) | ((scores == best) & (candidates.index < first))
    return torch.where(right.any(dim=1), before.sum(dim=1), ranks)


def _mean_recall(ranks: Sequence[Tensor], topk: Sequence[int]) -> float:
    recalls = [100 * (r[r >= 0] < k).double().mean().item() for r in ranks for k in topk]
    return sum(recalls) / len(recalls)
