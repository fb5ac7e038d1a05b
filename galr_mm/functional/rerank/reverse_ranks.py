"""Where a query stands in the list of each of its candidates, without sorting the matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from galr_mm.functional.rerank.keys import descending_codes, entries, levels_of, pack, sort_


class ReverseCounter:
    """Counts, for each candidate, the queries that stand before its own query in the candidate's list.

    A query stands before another if its similarity is larger, or equal and its index lower. Of a tile, one comparison
    drops the entries below the lowest candidate of their column; the others are sorted by column, then as their queries
    stand in the list, and binary search finds how many of them come before each candidate.

    An example with 3 queries (rows), 3 gallery items (columns) and the 2 best of each row as candidates, marked::

        0.9* 0.4  0.5*     entries that are left by column, each as value (query):
        0.8* 0.7* 0.1        column 0: 0.9 (0), 0.8 (1)
        0.3  0.6* 0.5*       column 1: 0.7 (1), 0.6 (2)
                             column 2: 0.5 (0), 0.5 (2)    a tie, which the lower query leads

    In column 0 the 0.9 of query 0 stands before the 0.8 of query 1, whose position is therefore 1; 0.3 is below the
    lowest candidate, 0.8, and is dropped. In column 1 the 0.7 stands before the 0.6, and 0.4 is dropped. In column 2
    the 0.5 of query 0 stands before the equal one of query 2.

    Args:
        index: (Q, k) columns of the candidates.
        similarity: (Q, k) entries of the tiles at the candidates.
        columns: N.
        valid: bool (Q, k), candidates that count; None for all.

    Shapes, with P candidates that count:
        - order: (P,), where each stands in the flattened (Q, k); column, code, query, count: (P,), by column, then as
          the queries stand in the list
        - start: (N + 1,), first candidate of each column; lowest: (N,), its lowest similarity, inf without candidates

    Example:
        >>> similarity = torch.tensor([[0.9, 0.4, 0.5], [0.8, 0.7, 0.1], [0.3, 0.6, 0.5]])
        >>> index = torch.tensor([[0, 2], [0, 1], [1, 2]])
        >>> counter = ReverseCounter(index, similarity.gather(1, index), columns=3)
        >>> counter.update(slice(0, 3), slice(0, 3), similarity)
        >>> counter.positions()
        tensor([[0, 0],
                [1, 0],
                [1, 1]])
    """

    def __init__(self, index: Tensor, similarity: Tensor, columns: int, valid: Tensor | None = None) -> None:
        self.shape, device = index.shape, index.device
        column, value = index.flatten(), similarity.flatten()
        counts = torch.arange(len(column), device=device) if valid is None else valid.flatten().nonzero().squeeze(1)
        column, value = column[counts], value[counts]
        self.levels = levels_of(value)
        code = descending_codes(value, self.levels)
        order = ((column << 32) + code).argsort(stable=True)  # the queries rise already
        self.order, self.column, self.code = counts[order], column[order], code[order]
        self.query = self.order // self.shape[1]
        self.start = torch.searchsorted(self.column, torch.arange(columns + 1, device=device))
        self.lowest = value.new_full((columns,), torch.inf)
        last = self.start.diff().nonzero().squeeze(1)  # columns with candidates
        self.lowest[last] = value[order[self.start[last + 1] - 1]]
        self.count = torch.zeros_like(self.column)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Count a tile's entries."""
        first, last = self.start[columns.start].item(), self.start[columns.stop].item()
        query, column, value = entries(tile, tile >= self.lowest[columns])
        if first == last or not len(query):
            return
        size, width = tile.shape
        bits = size.bit_length()
        keys = sort_(pack(column, descending_codes(value, self.levels), query, bits))
        column = self.column[first:last] - columns.start
        # of equal entries, those of lower queries stand before the candidate; they may be all of this tile, or none
        query = (self.query[first:last] - rows.start).clamp_(0, size)
        before = torch.searchsorted(keys, pack(column, self.code[first:last], query, bits))
        lists = torch.searchsorted(keys, torch.arange(width, device=tile.device) << (32 + bits))
        self.count[first:last] += before - lists[column]

    def positions(self) -> Tensor:
        """0-based position of the query in each candidate's list, int64 (Q, k); Q where it is not valid."""
        position = torch.full((self.shape[0] * self.shape[1],), self.shape[0], device=self.count.device)
        position[self.order] = self.count
        return position.view(self.shape)
