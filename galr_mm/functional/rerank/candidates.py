"""The k best gallery items of each query, and what the multivariate rerank asks about them.

Everything works on tiles, so that the memory beyond the result is a few tiles and a few values for each candidate. Two
passes over the tiles do it: the first takes the k best of each row and the column statistics; the second counts, for
each gallery item, the queries that are better for it than those that have it as a candidate, and sees whole columns.
Only entries at or above the lowest such similarity of their column can matter (5 % of them with images as queries on
UCM, 21 % with captions); one comparison drops the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, check_labels
from galr_mm.functional.checks import check_whole
from galr_mm.functional.rerank.checks import check_filler, prepare, prepare_reverse
from galr_mm.functional.rerank.column_statistics import column_statistic
from galr_mm.functional.rerank.reverse_ranks import ReverseCounter
from galr_mm.functional.rerank.tiles import MatrixTiles
from galr_mm.functional.rerank.top_k import RunningTopK


@dataclass(frozen=True)
class Candidates:
    """The k best gallery items of each query, best first, equal similarities by lower index.

    Shapes:
        - index: int64 (Q, k)
        - similarity: (Q, k), float32 or wider
        - significance: float64 (Q, k), how much the query stands out in the candidate's column
        - reverse: int64 (Q, k), 0-based position of the query in the candidate's own list of all queries
        - valid: bool (Q, k), false for pairs that were not scored; None where all were

    Example:
        >>> candidates, _ = find_candidates(torch.tensor([[0.5, 0.75, 0.25]]), k=3)
        >>> candidates.first(2).index
        tensor([[1, 0]])
    """

    index: Tensor
    similarity: Tensor
    significance: Tensor
    reverse: Tensor
    valid: Tensor | None = None

    def first(self, k: int) -> Candidates:
        """The k first of more candidates, as :func:`find_candidates` would have given them."""
        return self[:, :k]

    def __getitem__(self, item: slice | Tensor | tuple[slice, slice]) -> Candidates:
        """Some queries' candidates, or some candidates of all."""
        return Candidates(
            self.index[item],
            self.similarity[item],
            self.significance[item],
            self.reverse[item],
            None if self.valid is None else self.valid[item],
        )


def find_candidates(
    similarity: Array,
    k: int,
    reverse_similarity: Array | None = None,
    significance: str = 'ratio',
    filler: float | None = None,
) -> tuple[Candidates, Tensor]:
    """The k best of each row of a matrix (Q, N), their significance, and where the query stands in their own lists.

    Args:
        similarity: (Q, N).
        k: candidates of each query.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.
        significance: 'ratio', 'softmax' or 'off', see
            :func:`~galr_mm.functional.rerank.column_statistics.column_statistic`.
        filler: value of pairs that were not scored.

    Returns:
        The candidates, and the best similarity of what is not a candidate (Q,), -inf where nothing is left.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where the first is), or a filler that is not
            below all others.

    Example:
        >>> candidates, rest = find_candidates(torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]]), k=2)
        >>> candidates.index
        tensor([[1, 0],
                [1, 2]])
        >>> candidates.reverse  # item 1 prefers query 1, items 0 and 2 prefer the query they are candidates of
        tensor([[1, 0],
                [0, 0]])
        >>> rest
        tensor([0.2500, 0.2500])
    """
    check_whole('k', k)
    check_filler(filler)
    if reverse_similarity is not None:
        check_labels(similarity, reverse_similarity, transposed=True, names='similarity and reverse_similarity')
    k, similarity = int(k), prepare(similarity)
    reverse_similarity = prepare_reverse(reverse_similarity, similarity)
    tiles = MatrixTiles(similarity, filler)
    if reverse_similarity is None:
        lists = MatrixTiles(similarity.t())
    else:
        lists = MatrixTiles(reverse_similarity, filler, 'reverse_similarity')
    filler = tiles.filler
    size, gallery = similarity.shape
    best = RunningTopK(size, gallery, k + 1, tiles.dtype, tiles.device)  # one more: the best of what stays below
    statistic = column_statistic(gallery, tiles.device, significance, filler)
    for rows, columns, tile in tiles:
        tiles.check(tile)
        best.update(rows, columns, tile)
        statistic.update(rows, columns, tile)
    index, value = best.index[:, :k], best.value[:, :k]
    below = best.value[:, k] if best.k > k else torch.full_like(value[:, 0], -torch.inf)
    valid = None
    if filler is not None and (value == filler).any():
        valid = value != filler
        below = torch.where(valid.all(1), below, filler)
    own = value if reverse_similarity is None else reverse_similarity.t().gather(1, index).to(lists.dtype)
    counter = ReverseCounter(index, own, gallery, valid)
    for columns, rows, tile in lists:
        if reverse_similarity is not None:
            lists.check(tile)
        counter.update(rows, columns, tile.t())
    return Candidates(index, value, statistic.significance(value, index), counter.positions(), valid), below
