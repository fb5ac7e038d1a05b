from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from galr_mm.evaluation.rerankers import build_rerankers
from galr_mm.functional import find_candidates, multivariate_scores, recall_from_ranks, reranked_ranks
from galr_mm.functional.rerank.checks import check_options, prepare
from galr_mm.structures import RetrievalScores

KS = (5, 10, 20, 30, 50, 100)
SIGNIFICANCE_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
REVERSE_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.1, 1.5, 2.0, 4.0)
SCALES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0)
# parameters by preset; the multivariate rerank has a sweep of its own
GRIDS: dict[str, dict[str, Sequence[Any]]] = dict(
    rr=dict(k=KS),
    product=dict(k=KS),
    dsl=dict(scale=SCALES),
    qbnorm=dict(scale=SCALES, dynamic=(False, True)),
    csls=dict(k=(1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)),
)


class SweepPoint(NamedTuple):
    """A setting of a re-ranker and the mean recall it gives, in percent."""

    options: dict[str, Any]
    mean_recall: float


def sweep_reranker(
    scores: RetrievalScores,
    method: str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    topk: Sequence[int] = (1, 5, 10),
    **fixed: Any,
) -> tuple[float, list[SweepPoint]]:
    """Mean recall of a re-ranker at all settings of a grid; each is a whole re-ranking. Use a validation split.

    Args:
        scores: raw scores, with those of a bank where the re-ranker wants one.
        method: a preset or a registered name.
        grid: values of its parameters by name; by default those of ``GRIDS``.
        topk: k of the recalls whose mean is taken.
        **fixed: parameters that are the same in all settings.

    Returns:
        The mean recall of the raw scores, and a point for each setting.

    Raises:
        ValueError: when a direction has no query with a positive, for a method without a grid or an empty one, and as
            the re-ranker.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> scores = RetrievalScores.from_matrix(torch.rand(8, 8), captions_per_image=1)
        >>> raw, points = sweep_reranker(scores, 'dsl', dict(scale=(1.0, 5.0)))
        >>> [point.options for point in points]
        [{'scale': 1.0}, {'scale': 5.0}]
    """
    if grid is None:
        if method not in GRIDS:
            raise ValueError(f'{method!r} has no grid of its own, expected one of {", ".join(GRIDS)}, or a grid')
        grid = {name: values for name, values in GRIDS[method].items() if name not in fixed}
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not settings:
        raise ValueError(f'grid is {dict(grid)!r}, expected values for each parameter')
    rerankers = [build_rerankers(method, {method: {**setting, **fixed}})[method] for setting in settings]
    raw = _mean_recall(scores.ranks.values(), topk)
    points = [
        SweepPoint(setting, _mean_recall(rerank(scores).ranks.values(), topk))
        for setting, rerank in zip(settings, rerankers, strict=True)
    ]
    return raw, points


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
            points.append(SweepPoint(dict(k=k, weights=weights), _mean_recall(new, topk)))
    return raw, points


def _mean_recall(ranks: Iterable[Tensor], topk: Sequence[int]) -> float:
    recalls = [recall for direction in ranks for recall in recall_from_ranks(direction, topk).values()]
    return sum(recalls) / len(recalls)
