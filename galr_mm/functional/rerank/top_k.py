"""The k best gallery items of each query, tile by tile, with an exact rule for ties."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galr_mm.functional.rerank.keys import descending_codes, entries, levels_of, pack, sort_


def lower_bound(tile: Tensor, k: int) -> Tensor:
    """A bound (b, 1) that at least k values of each row of a tile (b, w) reach, and few more.

    The columns are dealt to groups. The k-th largest of the groups' maxima is such a bound, and there are far fewer
    maxima than values to select from.

    >>> lower_bound(torch.tensor([[0.5, 1.0, 0.5, 0.25]]), 2)
    tensor([[0.5000]])
    """
    width = tile.shape[1]
    if k >= width:
        return tile.new_full((len(tile), 1), -torch.inf)
    deals = min(max(1, width // (8 * k)), 16)
    groups = width // deals
    if tile.is_contiguous():
        maxima = tile[:, : deals * groups].unflatten(1, (deals, groups)).amax(dim=1)
    else:  # the same for the transpose of a contiguous one, in the order of its memory
        maxima = tile.t()[: deals * groups].unflatten(0, (deals, groups)).amax(dim=0).t().contiguous()
    if maxima.is_cuda:
        return maxima.topk(k, dim=1).values[:, -1:]
    return torch.from_numpy(np.partition(maxima.numpy(), groups - k, axis=1)[:, groups - k, None])


class RunningTopK:
    """The k best of each row over tiles that come in the order of their columns, best first, equal ones by lower index.

    Args:
        rows: Q.
        columns: N.
        k: how many; at most N are kept.
        dtype: of the tiles.
        device: of the tiles.

    Attributes:
        value, index: (Q, min(k, columns seen so far)), best first

    Example:
        >>> best = RunningTopK(1, 4, 3, torch.float32, torch.device('cpu'))
        >>> best.update(slice(0, 1), slice(0, 2), torch.tensor([[0.5, 1.0]]))
        >>> best.update(slice(0, 1), slice(2, 4), torch.tensor([[0.5, 0.75]]))
        >>> best.value, best.index
        (tensor([[1.0000, 0.7500, 0.5000]]), tensor([[1, 3, 0]]))
    """

    def __init__(self, rows: int, columns: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.k = min(k, columns)
        self.value = torch.full((rows, self.k), -torch.inf, dtype=dtype, device=device)
        self.index = torch.zeros((rows, self.k), dtype=torch.int64, device=device)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile (b, w) in; the sort is of what may be among the k best only."""
        seen, size = min(self.k, columns.start), len(tile)
        value, index = self.value[rows, :seen], self.index[rows, :seen]
        if seen < self.k:
            row, place, new = entries(tile, tile >= lower_bound(tile, self.k))
        else:  # an equal one of a higher index does not displace what is there
            row, place, new = entries(tile, tile > value[:, -1:])
        if seen:  # what is there already has lower indices
            old = torch.arange(size * seen, device=tile.device)
            row, place = torch.cat([old // seen, row]), torch.cat([old % seen, place.add_(seen)])
            new = torch.cat([value.flatten(), new])
        bits = (seen + tile.shape[1]).bit_length()
        keys = sort_(pack(row, descending_codes(new, levels_of(new)), place, bits))
        start = torch.bincount(row, minlength=size).cumsum(0)
        width = min(self.k, columns.stop)
        start = torch.cat([start.new_zeros(1), start[:-1]])
        place = keys[start[:, None] + torch.arange(width, device=tile.device)] & ((1 << bits) - 1)
        from_tile = (place - seen).clamp_(min=0)
        new, position = tile.gather(1, from_tile), from_tile + columns.start
        if seen:
            kept, before = place < seen, place.clamp(max=seen - 1)
            new = torch.where(kept, value.gather(1, before), new)
            position = torch.where(kept, index.gather(1, before), position)
        self.value[rows, :width], self.index[rows, :width] = new, position


def top_k(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of a block (b, w), best first, equal ones by lower index.

    Returns:
        Values and int64 indices, both (b, min(k, w)).

    >>> top_k(torch.tensor([[0.5, 1.0, 0.5, 0.5]]), 2)
    (tensor([[1.0000, 0.5000]]), tensor([[1, 0]]))
    """
    best = RunningTopK(len(block), block.shape[1], k, block.dtype, block.device)
    best.update(slice(0, len(block)), slice(0, block.shape[1]), block)
    return best.value, best.index
