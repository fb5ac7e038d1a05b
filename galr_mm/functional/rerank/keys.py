"""Whole numbers that stand in the order of a sort by group, then descending similarity, then index.

Selecting the k best and counting positions both need such an order, with an exact rule for ties. Packed into one int64,
[group | 32 bits that rise as the similarity falls | index], a plain sort of whole numbers gives it, which a processor
does many at a time. A tile has few rows and columns, so groups and indices together stay below 31 bits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def descending_codes(similarity: Tensor, levels: Tensor) -> Tensor:
    """Whole numbers from 0 to below 2**32 that rise as similarities (n,) fall, int64 (n,); equal ones are equal.

    Float32 numbers read as integers are in order, but for the sign; float64 ones are placed among the ``levels``, and
    those between two levels get one number.

    Args:
        similarity: (n,).
        levels: (L,), rising and different similarities, L < 2**31.

    >>> descending_codes(torch.tensor([0.5, 2.0, 0.0, -0.0, -1.0]), torch.empty(0)).argsort(stable=True)
    tensor([1, 0, 2, 3, 4])
    >>> descending_codes(torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64), torch.tensor([0.5, 2.0]).double())
    tensor([3, 1, 2])
    """
    if similarity.dtype == torch.float32:
        bits = (similarity + 0.0).view(torch.int32)  # -0.0 becomes 0.0, which it equals
        return (1 << 31) - 1 - (bits ^ ((bits >> 31) & torch.iinfo(torch.int32).max)).long()
    level = torch.searchsorted(levels, similarity)
    exact = levels[level.clamp(max=len(levels) - 1)] == similarity
    return 2 * (len(levels) - level) - exact.long()


def levels_of(similarity: Tensor) -> Tensor:
    """The levels (L,) that :func:`descending_codes` needs to tell all similarities (n,) apart; none for float32."""
    return similarity[:0] if similarity.dtype == torch.float32 else similarity.unique()


def pack(group: Tensor, code: Tensor, index: Tensor, bits: int) -> Tensor:
    """Keys (n,) of groups, codes and indices, each int64 (n,); indices are below 2**bits."""
    return (group << 32 + bits).add_(code << bits).add_(index)


def sort_(keys: Tensor) -> Tensor:
    """Keys (n,) in rising order, int64 (n,); they may be sorted in place."""
    if keys.is_cuda:
        return keys.sort().values
    keys.numpy().sort()  # several times as fast as torch.sort
    return keys


def entries(tile: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values, each (n,), of a tile (b, w) where a mask (b, w) is true, in the order of its memory."""
    if not tile.is_contiguous():
        columns, rows, values = entries(tile.t(), chosen.t())
        return rows, columns, values
    flat = _flat_nonzero(chosen)
    rows = flat // tile.shape[1]
    return rows, flat - rows * tile.shape[1], tile.flatten()[flat]


def _flat_nonzero(mask: Tensor) -> Tensor:
    if mask.is_cuda:
        return mask.flatten().nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # torch.nonzero takes four times as long
