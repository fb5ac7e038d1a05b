"""The k best gallery items of each query, tile by tile, with an exact rule for ties."""

from __future__ import annotations

import torch
from torch import Tensor

from galr_mm.functional.rerank.tiles import TILE


def top_k(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of a block (b, w), best first, equal ones by lower index.

    ``torch.topk`` picks any of several equal values; the rows where that matters are repaired here.

    Returns:
        Values and int64 indices, both (b, min(k, w)).

    >>> top_k(torch.tensor([[0.5, 1.0, 0.5, 0.5]]), 2)
    (tensor([[1.0000, 0.5000]]), tensor([[1, 0]]))
    """
    k = min(k, block.shape[1])
    value, index = block.topk(min(k + 1, block.shape[1]), dim=1)
    if value.shape[1] > k:
        rows = (value[:, k] == value[:, k - 1]).nonzero().squeeze(1)  # equal values on both sides of the border
        value, index = value[:, :k].contiguous(), index[:, :k].contiguous()
        for part in rows.split(max(1, TILE // 4 // block.shape[1])):
            sub, border = block[part], value[part, -1:]
            above, equal = sub > border, sub == border
            room = k - above.sum(1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
            index[part] = chosen.nonzero()[:, 1].view(-1, k)
            value[part] = sub.gather(1, index[part])
    rows = (value[:, 1:] >= value[:, :-1]).any(dim=1).nonzero().squeeze(1)  # equal values inside, or repaired just now
    if len(rows):
        by_index = index[rows].sort(dim=1).values
        value[rows], order = block[rows[:, None], by_index].sort(dim=1, descending=True, stable=True)
        index[rows] = by_index.gather(1, order)
    return value, index


class RunningTopK:
    """The k best of each row over tiles that come in the order of their columns.

    Args:
        rows: Q.
        columns: N.
        k: how many; at most N are kept.
        dtype: of the tiles.
        device: of the tiles.

    Attributes:
        value, index: (Q, min(k, columns seen so far)), best first
    """

    def __init__(self, rows: int, columns: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.k = min(k, columns)
        self.value = torch.full((rows, self.k), -torch.inf, dtype=dtype, device=device)
        self.index = torch.zeros((rows, self.k), dtype=torch.int64, device=device)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        value, index = top_k(tile, self.k)
        if columns.start:  # what is there already has lower indices and stands first, as a stable sort keeps it
            seen = min(self.k, columns.start)
            value = torch.cat([self.value[rows, :seen], value], dim=1)
            index = torch.cat([self.index[rows, :seen], index + columns.start], dim=1)
            value, order = value.sort(dim=1, descending=True, stable=True)
            index = index.gather(1, order)
        width = min(self.k, value.shape[1])
        self.value[rows, :width], self.index[rows, :width] = value[:, :width], index[:, :width]
