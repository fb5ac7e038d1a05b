"""Multivariate rerank from features, without the similarity matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from galr_mm.functional.rerank.candidates import (
    FeatureColumnSums,
    FeatureTiles,
    ReverseCounter,
    RunningTopK,
    require_finite,
)
from galr_mm.functional.rerank.checks import check_multivariate, prepare_features
from galr_mm.functional.rerank.multivariate import Candidates, column_statistics, multivariate_scores


class Ranking(NamedTuple):
    """The k best gallery items of each query, best first.

    Shapes:
        - indices: int64 (Q, k)
        - scores: (Q, k), float32 or wider
    """

    indices: Tensor
    scores: Tensor


def best_first(candidates: Candidates, scores: Tensor) -> Ranking:
    """Candidates and their scores (Q, k) highest score first, equal ones by lower index, as in the re-ranked matrix."""
    scores = scores.to(candidates.similarity.dtype)
    indices, order = candidates.index.sort(dim=1)
    scores, by_score = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Ranking(indices.gather(1, by_score), scores)


def multivariate_rerank_from_features(
    query_feats: Tensor | np.ndarray,
    gallery_feats: Tensor | np.ndarray,
    k: int = 30,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    reverse_top: int | None = None,
    significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
    both: bool = False,
    progress: bool = True,
) -> Ranking | tuple[Ranking, Ranking]:
    """Multivariate rerank of the dot products of features, without their matrix: memory grows as (Q + N) (k + D).

    The products are made twice, tile by tile: once for the candidates, once for their reverse positions.

    Args:
        query_feats: (Q, D), used as given: L2-normalize them for cosines.
        gallery_feats: (N, D), on the same device.
        k: as in :func:`multivariate_rerank`, and so are the next five.
        weights: of significance, forward and reverse term.
        decay: lambda.
        reverse: 'ordinal' or 'absolute'.
        reverse_top: how far down a candidate's list the reverse term counts.
        significance: 'ratio', 'softmax' or 'off'.
        both: give the other direction too, gallery items as queries, from the same products.
        progress: show a bar when it takes longer than a second.

    Returns:
        ``(indices, scores)``, each (Q, k), best first: the k best of the re-ranked matrix, in its order where
        similarities differ by more than rounding. With ``both`` a pair of them, the second of shape (N, min(k, Q)).

    Raises:
        ValueError: as :func:`multivariate_rerank`, or when the features do not fit each other.
    """
    queries, gallery = prepare_features(query_feats=query_feats, gallery_feats=gallery_feats)
    check_multivariate(k, weights, decay, reverse, reverse_top, significance)
    tiles = FeatureTiles(queries, gallery)
    directions = [(queries, gallery), (gallery, queries)][: 2 if both else 1]
    best = [RunningTopK(len(q), len(g), int(k), tiles.dtype, tiles.device) for q, g in directions]
    statistics = [
        FeatureColumnSums(q, g) if significance == 'ratio' else column_statistics(len(g), tiles.device, significance)
        for q, g in directions
    ]
    with tqdm(total=2 * len(tiles), desc='re-ranking', unit='tile', delay=1, disable=not progress) as bar:
        for rows, columns, tile in tiles:
            require_finite(tile)
            for number, view in enumerate(views(rows, columns, tile, both)):
                best[number].update(*view)
                statistics[number].update(*view)
            bar.update()
        counters = [ReverseCounter(b.index, b.value, len(g)) for b, (_, g) in zip(best, directions, strict=True)]
        for rows, columns, tile in tiles:
            for number, view in enumerate(views(rows, columns, tile, both)):
                counters[number].update(*view)
            bar.update()
    results = []
    for b, s, counter in zip(best, statistics, counters, strict=True):
        candidates = Candidates(b.index, b.value, s.share(b.value, b.index), counter.positions())
        results.append(best_first(candidates, multivariate_scores(candidates, weights, decay, reverse, reverse_top)))
    return tuple(results) if both else results[0]


def views(rows: slice, columns: slice, tile: Tensor, both: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """A tile as it is and, for ``both``, as a tile of the other direction."""
    yield rows, columns, tile
    if both:
        yield columns, rows, tile.t().contiguous()
