"""Multivariate rerank from features, without the similarity matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, overload

from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.rerank.candidates import Candidates
from galr_mm.functional.rerank.checks import check_options, prepare_features
from galr_mm.functional.rerank.column_statistics import ColumnStatistic, FeatureColumnSums, column_statistic
from galr_mm.functional.rerank.multivariate import multivariate_scores
from galr_mm.functional.rerank.reverse_ranks import ReverseCounter
from galr_mm.functional.rerank.tiles import FeatureTiles, require_finite
from galr_mm.functional.rerank.top_k import RunningTopK


class Ranking(NamedTuple):
    """The k best gallery items of each query, best first.

    Shapes:
        - indices: int64 (Q, k)
        - scores: (Q, k), float32 or wider

    Example:
        >>> Ranking(indices=Tensor([[2, 0]]).long(), scores=Tensor([[0.9, 0.5]])).indices
        tensor([[2, 0]])
    """

    indices: Tensor
    scores: Tensor


def best_first(candidates: Candidates, scores: Tensor) -> Ranking:
    """Candidates and their scores (Q, k) by descending score, equal ones by lower index, as in the re-ranked matrix."""
    scores = scores.to(candidates.similarity.dtype)
    indices, order = candidates.index.sort(dim=1)
    scores, by_score = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Ranking(indices.gather(1, by_score), scores)


@overload
def multivariate_rerank_from_features(
    query_feats: Array,
    gallery_feats: Array,
    k: int = ...,
    weights: Sequence[float] = ...,
    decay: float = ...,
    reverse: Literal['ordinal', 'absolute'] = ...,
    reverse_top: int | None = ...,
    significance: Literal['ratio', 'softmax', 'off'] = ...,
    both: Literal[False] = ...,
    progress: Callable[[int, int], object] | None = ...,
) -> Ranking: ...


@overload
def multivariate_rerank_from_features(
    query_feats: Array,
    gallery_feats: Array,
    k: int = ...,
    weights: Sequence[float] = ...,
    decay: float = ...,
    reverse: Literal['ordinal', 'absolute'] = ...,
    reverse_top: int | None = ...,
    significance: Literal['ratio', 'softmax', 'off'] = ...,
    *,
    both: Literal[True],
    progress: Callable[[int, int], object] | None = ...,
) -> tuple[Ranking, Ranking]: ...


def multivariate_rerank_from_features(
    query_feats: Array,
    gallery_feats: Array,
    k: int = 30,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    reverse_top: int | None = None,
    significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
    both: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Ranking | tuple[Ranking, Ranking]:
    """Multivariate rerank of the dot products of features, without their matrix: memory grows as (Q + N) (k + D).

    The products are made twice, tile by tile: once for the candidates, once for their reverse positions.

    Args:
        query_feats: (Q, D), used as given: L2-normalize them for cosines.
        gallery_feats: (N, D), on the same device.
        k: as in :func:`~galr_mm.functional.multivariate_rerank`, and so are the next five.
        weights: of significance, forward and reverse term.
        decay: lambda.
        reverse: 'ordinal' or 'absolute'.
        reverse_top: how far down a candidate's list the reverse term counts.
        significance: 'ratio', 'softmax' or 'off'.
        both: give the other direction too, gallery items as queries, from the same products.
        progress: called after each tile with the tiles done and their total.

    Returns:
        ``(indices, scores)``, each (Q, k), best first: the k best of the re-ranked matrix, in its order where
        similarities differ by more than rounding. With ``both`` a pair of them, the second of shape (N, min(k, Q)).

    Raises:
        ValueError: as :func:`~galr_mm.functional.multivariate_rerank`, or when the features do not fit each other.

    Example:
        >>> import torch
        >>> query, gallery = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[0.25, 0.5], [0.5, 1.0], [1.0, 0.0]])
        >>> multivariate_rerank_from_features(query, gallery, k=2).indices
        tensor([[2, 1],
                [1, 0]])
        >>> tiles = []
        >>> _ = multivariate_rerank_from_features(query, gallery, progress=lambda *done: tiles.append(done))
        >>> tiles
        [(1, 2), (2, 2)]
    """
    queries, gallery = prepare_features(query_feats=query_feats, gallery_feats=gallery_feats)
    check_options(k, weights, decay, reverse, reverse_top, significance)
    significance = significance if weights[0] else 'off'  # nothing would come of it
    tiles = FeatureTiles(queries, gallery)
    directions = [(queries, gallery), (gallery, queries)][: 2 if both else 1]
    best = [RunningTopK(len(q), len(g), int(k), tiles.dtype, tiles.device) for q, g in directions]
    statistics: list[ColumnStatistic] = [
        FeatureColumnSums(q, g) if significance == 'ratio' else column_statistic(len(g), tiles.device, significance)
        for q, g in directions
    ]
    done = 0

    def passes() -> Iterator[tuple[slice, slice, Tensor]]:
        """The tiles of the next pass; says after each that it is done."""
        nonlocal done
        for rows, columns, tile in tiles:
            yield rows, columns, tile
            done += 1
            if progress is not None:
                progress(done, 2 * len(tiles))

    for rows, columns, tile in passes():
        if not tiles.surely_finite:
            require_finite(tile)
        for direction, view in enumerate(views(rows, columns, tile, both)):
            best[direction].update(*view)
            statistics[direction].update(*view)
    counters = [ReverseCounter(b.index, b.value, len(g)) for b, (_, g) in zip(best, directions, strict=True)]
    for rows, columns, tile in passes():
        for direction, view in enumerate(views(rows, columns, tile, both)):
            counters[direction].update(*view)
    results = []
    for b, statistic, counter in zip(best, statistics, counters, strict=True):
        candidates = Candidates(b.index, b.value, statistic.significance(b.value, b.index), counter.positions())
        results.append(best_first(candidates, multivariate_scores(candidates, weights, decay, reverse, reverse_top)))
    return (results[0], results[1]) if both else results[0]


def views(rows: slice, columns: slice, tile: Tensor, both: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """A tile as it is and, for ``both``, as a tile of the other direction."""
    yield rows, columns, tile
    if both:
        yield columns, rows, tile.t()
