"""New scores for the candidates, everything else below them in its old order: one matrix, and nothing is sorted.

The floating-point numbers of a type, from its lowest to its largest, stand on a line. Read as two's complement
integers, the bits of IEEE 754 numbers rise along that line above zero and fall along it below; exchanging the negative
ones turns every number into its place on the line:

====================  ==============  ===========  ====================
float32               bits            place        remark
====================  ==============  ===========  ====================
-1.0                  ``0xBF800000``  -1065353216
-1.4e-45              ``0x80000001``  -1           first below zero
0.0 and -0.0          ``0x00000000``  0            -0.0 is made 0.0
1.4e-45               ``0x00000001``  1            first above zero
1.0                   ``0x3F800000``  1065353216
====================  ==============  ===========  ====================

Subtracting one integer from the places of a row moves all its numbers down by as many steps, so that different numbers
stay different and equal ones equal, at any scale. Subtracting a real number would merge neighbors by its rounding.

>>> numbers = torch.tensor([-1.0, -1.4e-45, -0.0, 1.4e-45, 1.0])
>>> places = _to_ordered_int_(numbers.clone())
>>> places
tensor([-1065353216,          -1,           0,           1,  1065353216],
       dtype=torch.int32)
>>> _from_ordered_int_(places).equal(numbers)
True
"""

from __future__ import annotations

import torch
from torch import Tensor

from galr_mm.functional.rerank.candidates import Candidates
from galr_mm.functional.rerank.tiles import TILE, MatrixTiles, slices


def scatter_scores(
    similarity: Tensor, candidates: Candidates, below: Tensor, scores: Tensor, tail: str = 'keep'
) -> Tensor:
    """The matrix in which the candidates have new scores (Q, k), (Q, N) in float32 or wider.

    Args:
        similarity: (Q, N).
        candidates: with indices (Q, k).
        below: (Q,), the best similarity of what is not a candidate, as
            :func:`~galr_mm.functional.find_candidates` gives it.
        scores: (Q, k).
        tail: 'keep' leaves everything else in its old order below all candidates: where a row's rest reaches up to its
            candidates, its similarities are moved down, see the top of this module. 'zero' gives it 0, as released.

    Example:
        >>> from galr_mm.functional import find_candidates
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25, 0.125]])
        >>> candidates, below = find_candidates(similarity, k=2)
        >>> out = scatter_scores(similarity, candidates, below, torch.tensor([[0.1, 0.2]]))
        >>> out.argsort(descending=True)
        tensor([[0, 1, 2, 3]])
        >>> out[0, :2]
        tensor([0.2000, 0.1000])
    """
    tiles = MatrixTiles(similarity)
    scores = scores.to(tiles.dtype)
    if tail == 'zero':
        if candidates.valid is not None:
            scores = scores.masked_fill(~candidates.valid, 0)
        return scores.new_zeros(similarity.shape).scatter_(1, candidates.index, scores)
    out = scores.new_empty(similarity.shape).copy_(similarity)
    floor = scores if candidates.valid is None else scores.masked_fill(~candidates.valid, torch.inf)
    shift_below_(out, below, floor.amin(dim=1))
    if candidates.valid is not None:
        scores = torch.where(candidates.valid, scores, out.gather(1, candidates.index))
    return out.scatter_(1, candidates.index, scores)


def shift_below_(rows: Tensor, highest: Tensor, floor: Tensor) -> None:
    """Lower each row (b, N) in place so that ``highest`` (b,) comes below ``floor`` (b,), and all keep their order.

    Numbers are moved along the line of all floating-point numbers, by as many of them as is needed; a row where that
    line ends too early, with similarities near the largest there are, goes down by one of them for each rank instead.

    >>> rows = torch.tensor([[3.0, 2.0, 1.0]])
    >>> shift_below_(rows, highest=torch.tensor([2.0]), floor=torch.tensor([0.5]))
    >>> (rows[0, 1] < 0.5).item(), (rows[0, 2] < rows[0, 1]).item()
    (True, True)
    """
    high, low, lowest = (_to_ordered_int_(numbers) for numbers in (highest.clone(), floor.clone(), rows.amin(dim=1)))
    end = _to_ordered_int_(torch.full_like(floor, -torch.finfo(floor.dtype).max)).double()
    far = high.double() - low.double()
    early = ((far >= 0) & (lowest.double() - far < 0.999 * end)).nonzero().squeeze(1)
    ranks = rows[early].argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    # integers wrap around, so a difference too large for its type still ends at the right place
    steps = torch.where(highest < floor, 0, high - low + 1)[:, None]
    for part in slices(len(rows), max(1, TILE // rows.shape[1])):
        if not steps[part].any():
            continue
        # above zero, where bits are places, before and after; a floor above zero leaves no room to wrap around
        if ((low[part] > 0) & (lowest[part] > steps[part, 0])).all():
            rows[part].view(low.dtype).sub_(steps[part])
        else:
            _from_ordered_int_(_to_ordered_int_(rows[part]).sub_(steps[part]))
    rows[early] = _from_ordered_int_(low[early, None] - 1 - ranks.to(low.dtype))


def _to_ordered_int_(numbers: Tensor) -> Tensor:
    """Turn numbers, in their own memory, into their places on the line of all floating-point numbers."""
    numbers.add_(0.0)  # -0.0 becomes 0.0, which it equals
    return _flip_(numbers.view({4: torch.int32, 8: torch.int64}[numbers.element_size()]))


def _from_ordered_int_(places: Tensor) -> Tensor:
    """The inverse of :func:`_to_ordered_int_`, in the same memory."""
    return _flip_(places).view({4: torch.float32, 8: torch.float64}[places.element_size()])


def _flip_(bits: Tensor) -> Tensor:
    """Exchange sign and magnitude with two's complement, so that the places run on below zero; its own inverse."""
    sign = bits >> (torch.iinfo(bits.dtype).bits - 1)  # -1 for negative ones, else 0
    return bits.bitwise_xor_(sign & torch.iinfo(bits.dtype).max).sub_(sign)
