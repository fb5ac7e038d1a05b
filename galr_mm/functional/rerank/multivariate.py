r"""Re-ranking of similarities: pure functions, rows are queries.

For the k best gallery items c of query q (:math:`r` = 0-based position of c for q), the multivariate rerank of GaLR
(Sec. III-F) adds three terms:

.. math::
    p_s = \frac{S_{qc}}{\sum_{q'} S_{q'c}}, \quad p_f = e^{-\lambda (r + 1)}, \quad p_r = e^{-\lambda (o + 1)}, \quad
    score = w_s p_s + w_f p_f + w_r p_r

with :math:`o` the 0-based place of c among the k candidates when they are ordered by the position of q in c's own list
of all queries ('ordinal'), or that position itself ('absolute').

Ties: equal similarities are ordered by lower index, equal reverse positions keep the forward order, equal scores are
ordered by lower index. How candidates and positions are found without sorting the matrix is in ``candidates.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from galr_mm.functional.rerank.candidates import (
    ColumnSoftmax,
    ColumnSums,
    MatrixTiles,
    NoShare,
    ReverseCounter,
    RunningTopK,
    require_finite,
)
from galr_mm.functional.rerank.checks import (
    REVERSES,
    TAILS,
    check_choices,
    check_decay,
    check_filler,
    check_multivariate,
    prepare,
    prepare_reverse,
)


class Candidates(NamedTuple):
    """The k best gallery items of each query.

    Shapes:
        - index: int64 (Q, k), best first
        - similarity: (Q, k)
        - share: float64 (Q, k), how much the query stands out in the candidate's column
        - reverse: int64 (Q, k), 0-based position of the query in the candidate's own list of all queries
        - valid: bool (Q, k), false for pairs that were not scored; None where all were
    """

    index: Tensor
    similarity: Tensor
    share: Tensor
    reverse: Tensor
    valid: Tensor | None = None


def column_statistics(
    columns: int, device: torch.device, significance: str, filler: float | None = None
) -> ColumnSums | ColumnSoftmax | NoShare:
    r"""What the significance term divides by, to be filled tile by tile.

    'ratio' divides by the column sum. A column whose sum is near zero or negative has no such share: the divisor is
    kept at or above 1 % of the column's sum of magnitudes, which changes nothing where the sum is clearly positive.
    'softmax' is the softmax over the column, 'off' a term of 0.
    """
    if significance == 'off':
        return NoShare()
    return (ColumnSums if significance == 'ratio' else ColumnSoftmax)(columns, device, filler)


def find_candidates(
    similarity: Tensor,
    k: int,
    reverse_similarity: Tensor | None = None,
    significance: str = 'off',
    filler: float | None = None,
) -> tuple[Candidates, Tensor]:
    """The k best of each row of a matrix (Q, N), their share, and where the query stands in their own lists.

    Args:
        similarity: (Q, N).
        k: candidates of each query.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.
        significance: 'ratio', 'softmax' or 'off'.
        filler: value of pairs that were not scored.

    Returns:
        The candidates, and the best similarity of what is none (Q,), -inf where nothing is left.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where the first is), or a filler that is not
            below all others.
    """
    if filler is not None:  # as it is written in this matrix
        filler = torch.tensor(filler, dtype=similarity.dtype).item()
    tiles = MatrixTiles(similarity)
    size, gallery = similarity.shape
    best = RunningTopK(size, gallery, k + 1, tiles.dtype, tiles.device)  # one more: the best of what stays below
    statistics = column_statistics(gallery, tiles.device, significance, filler)
    for rows, columns, tile in tiles:
        require_finite(tile, similarity)
        if filler is not None and tile.min() < filler:
            raise ValueError(f'filler is {filler}, but a pair that was scored has {tile.min().item()}, which is lower')
        best.update(rows, columns, tile)
        statistics.update(rows, columns, tile)
    index, value = best.index[:, :k], best.value[:, :k]
    below = best.value[:, k] if best.k > k else torch.full_like(value[:, 0], -torch.inf)
    valid = None
    if filler is not None and (value == filler).any():
        valid = value != filler
        below = torch.where(valid.all(1), below, filler)
    backward = similarity if reverse_similarity is None else reverse_similarity.t()
    backward_tiles = MatrixTiles(backward)
    counter = ReverseCounter(index, backward.gather(1, index).to(backward_tiles.dtype), gallery, valid)
    for rows, columns, tile in backward_tiles:
        if reverse_similarity is not None:
            require_finite(tile, reverse_similarity)
        counter.update(rows, columns, tile)
    return Candidates(index, value, statistics.share(value, index), counter.positions(), valid), below


def reverse_order(candidates: Candidates, reverse: str) -> Tensor:
    """Reverse order o of each candidate, int64 (Q, k): its place among the candidates, or its own position."""
    if reverse == 'absolute':
        return candidates.reverse
    order = candidates.reverse.argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def multivariate_scores(
    candidates: Candidates,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: str = 'ordinal',
    reverse_top: int | None = None,
) -> Tensor:
    """The formula at the top of this module for the candidates, float64 (Q, k)."""
    w_s, w_f, w_r = weights
    forward = torch.arange(1, candidates.index.shape[1] + 1, device=candidates.index.device, dtype=torch.float64)
    backward = (-decay * (reverse_order(candidates, reverse) + 1).double()).exp()
    if reverse_top is not None:
        backward = backward * (candidates.reverse < reverse_top)
    return w_s * candidates.share + w_f * (-decay * forward).exp() + w_r * backward


def product_scores(candidates: Candidates, decay: float = 0.05, reverse: str = 'ordinal') -> Tensor:
    """Similarity times forward and reverse term for the candidates, float64 (Q, k)."""
    forward = torch.arange(1, candidates.index.shape[1] + 1, device=candidates.index.device)
    similarity = candidates.similarity.double()
    if candidates.valid is not None:
        similarity = similarity.masked_fill(~candidates.valid, torch.inf)
    lowest = similarity.amin(dim=1, keepdim=True)
    if candidates.valid is not None:
        similarity = similarity.masked_fill(~candidates.valid, -torch.inf)
    spread = similarity.amax(dim=1, keepdim=True) - lowest
    above = torch.where(spread > 0, 1e-6 * spread, 1.0)  # just above zero, on the scale of this query
    positive = similarity + torch.where(lowest > 0, 0.0, above - lowest)
    return positive * (-decay * (forward + reverse_order(candidates, reverse) + 1).double()).exp()


def place_scores(similarity: Tensor, candidates: Candidates, below: Tensor, scores: Tensor, tail: str) -> Tensor:
    """Spread the candidates' scores (Q, k) over the whole gallery, (Q, N) in float32 or wider.

    'zero' gives everything else 0, as released. 'keep' leaves it in its old order below all candidates: where a row's
    rest reaches up to its candidates, its similarities are moved down by a number of floating-point steps, the same for
    the row, so that different numbers stay different and nothing has to be sorted.
    """
    tiles = MatrixTiles(similarity)
    scores = scores.to(tiles.dtype)
    if tail == 'zero':
        if candidates.valid is not None:
            scores = scores.masked_fill(~candidates.valid, 0)
        return scores.new_zeros(similarity.shape).scatter_(1, candidates.index, scores)
    out = scores.new_empty(similarity.shape)
    floor = scores if candidates.valid is None else scores.masked_fill(~candidates.valid, torch.inf)
    floor = floor.amin(dim=1)
    for rows, _, tile in tiles:
        part, index, score = out[rows].copy_(tile), candidates.index[rows], scores[rows]
        move_below_(part, below[rows], floor[rows])
        if candidates.valid is not None:
            score = torch.where(candidates.valid[rows], score, part.gather(1, index))
        part.scatter_(1, index, score)
    return out


def move_below_(rows: Tensor, highest: Tensor, floor: Tensor) -> None:
    """Lower each row (b, N) in place so that ``highest`` (b,) comes below ``floor`` (b,), and all keep their order.

    Numbers are moved along the line of all floating-point numbers, by as many of them as is needed; a row where that
    line ends too early, with similarities near the largest there are, goes down by one of them for each place instead.
    """
    high, low, end = (
        _line_(x.clone()) for x in (highest, floor, torch.full_like(floor, -torch.finfo(floor.dtype).max))
    )
    lowest = rows.amin(dim=1)
    far = high.double() - low.double()
    early = ((far >= 0) & (_line_(lowest).double() - far < 0.999 * end.double())).nonzero().squeeze(1)
    places = rows[early].argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    # whole numbers wrap around, so a difference too large for its type still ends at the right place
    steps = torch.where(highest < floor, 0, high - low + 1)
    if steps.any():
        _number_(_line_(rows).sub_(steps[:, None]))
    rows[early] = _number_(low[early, None] - 1 - places.to(low.dtype))


def _line_(number: Tensor) -> Tensor:
    """Turn numbers, in their own memory, into their places on the line of all floating-point numbers, whole numbers."""
    number.add_(0.0)  # -0.0 becomes 0.0, which it equals
    return _flip_(number.view({4: torch.int32, 8: torch.int64}[number.element_size()]))


def _number_(place: Tensor) -> Tensor:
    """The inverse of :func:`_line_`."""
    return _flip_(place).view({4: torch.float32, 8: torch.float64}[place.element_size()])


def _flip_(bits: Tensor) -> Tensor:
    """Exchange sign and magnitude with two's complement, so that the places run on below zero; its own inverse."""
    sign = bits >> (torch.iinfo(bits.dtype).bits - 1)  # -1 for negative ones, else 0
    return bits.bitwise_xor_(sign & torch.iinfo(bits.dtype).max).sub_(sign)


def multivariate_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    reverse_top: int | None = None,
    significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
    filler: float | None = None,
) -> Tensor:
    """Multivariate rerank (MR) of GaLR, Sec. III-F; the formula is at the top of this module.

    Besides the result it needs a few tiles of 8 MiB (16 in float64) and about 100 bytes for each of the Q k candidates.

    Args:
        similarity: (Q, N), rows are queries; float16 to float64, tensor on any device or array.
        k: candidates of each query, at most the gallery's size.
        weights: of significance, forward and reverse term.
        decay: lambda.
        reverse: 'ordinal' (released) or 'absolute' (the paper's figure).
        reverse_top: the reverse term is 0 where the query is not among so many first of the candidate's list.
        significance: 'ratio', 'softmax' or 'off'; see :func:`column_statistics` for sums near zero.
        tail: 'keep' leaves the order beyond the top k as it was, below all candidates; 'zero' is the released one.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.
        filler: value, below all others, of pairs that were not scored (-100 in mmpretrain's two-stage retrievers): they
            are no candidates and do not count in column sums.

    Returns:
        Scores (Q, N) in float32 or wider.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where the first is), an empty matrix, k below 1,
            or an unknown option.
    """
    check_multivariate(k, weights, decay, reverse, reverse_top, significance)
    check_choices(k, tail=(tail, TAILS))
    check_filler(filler)
    similarity = prepare(similarity)
    reverse_similarity = prepare_reverse(reverse_similarity, similarity)
    candidates, below = find_candidates(similarity, int(k), reverse_similarity, significance, filler)
    scores = multivariate_scores(candidates, weights, decay, reverse, reverse_top)
    return place_scores(similarity, candidates, below, scores, tail)


def reverse_rank_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    decay: float = 0.05,
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
    filler: float | None = None,
) -> Tensor:
    """Order the k best by the query's position in their own lists only (MTFN-RR, Wang et al., 2019).

    Arguments, result and errors as for :func:`multivariate_rerank`.
    """
    return multivariate_rerank(
        similarity,
        k,
        (0.0, 0.0, 1.0),
        decay,
        significance='off',
        tail=tail,
        reverse_similarity=reverse_similarity,
        filler=filler,
    )


def product_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
    filler: float | None = None,
) -> Tensor:
    """Similarity times forward and reverse term for the k best.

    A product of mixed signs has no order: where a query has a candidate at or below zero, all its candidates are moved
    up first, the lowest to just above zero. Arguments, result and errors as for :func:`multivariate_rerank`.
    """
    check_choices(k, reverse=(reverse, REVERSES), tail=(tail, TAILS))
    check_decay(decay)
    check_filler(filler)
    similarity = prepare(similarity)
    reverse_similarity = prepare_reverse(reverse_similarity, similarity)
    candidates, below = find_candidates(similarity, int(k), reverse_similarity, filler=filler)
    return place_scores(similarity, candidates, below, product_scores(candidates, decay, reverse), tail)
