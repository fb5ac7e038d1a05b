"""Where a query stands in the list of each of its candidates, without sorting a column."""

from __future__ import annotations

import torch
from torch import Tensor


class ReverseCounter:
    """Counts, for each candidate, the queries that stand before its own query in the candidate's list.

    A query stands before another if its similarity is larger, or equal and its index lower. Candidates are kept ordered
    by column, then as their queries stand in the list; an entry of a tile then counts for all candidates of its column
    from the first that it stands before, which binary search finds.

    An example with 3 queries (rows), 3 gallery items (columns) and the 2 best of each row as candidates, marked::

        0.9* 0.4  0.5*     candidates by column, each as value (query):
        0.8* 0.7* 0.1        column 0: 0.9 (0), 0.8 (1)
        0.3  0.6* 0.5*       column 1: 0.7 (1), 0.6 (2)
                             column 2: 0.5 (0), 0.5 (2)    a tie, which the lower query leads

    An entry counts for the candidates behind it in its column. In column 0 the 0.9 of query 0 counts for the 0.8 of
    query 1, whose position is therefore 1; 0.3 is below the lowest candidate, 0.8, and is dropped by one comparison. In
    column 1 the 0.7 counts for the 0.6, and 0.4 is dropped. In column 2 the 0.5 of query 0 counts for the equal one of
    query 2, but not the other way round.

    Args:
        index: (Q, k) columns of the candidates.
        similarity: (Q, k) entries of the tiles at the candidates.
        columns: N.
        valid: bool (Q, k), candidates that count; None for all.

    Shapes, with P candidates that count:
        - order: (P,), where each stands in the flattened (Q, k); column, query, key, group, group_key, count: (P,)
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
        query = torch.arange(len(index), device=device)[:, None].expand_as(index).flatten()
        column, value = index.flatten(), similarity.flatten()
        order = torch.arange(len(column), device=device) if valid is None else valid.flatten().nonzero().squeeze(1)
        # by column, then descending value, then query; the queries rise already
        order = order[value[order].argsort(descending=True, stable=True)]
        self.order = order[column[order].argsort(stable=True)]
        column, value, self.query = column[self.order], value[self.order], query[self.order]
        self.start = torch.searchsorted(column, torch.arange(columns + 1, device=device))  # first of each column
        self.lowest = value.new_full((columns,), torch.inf).scatter_reduce_(0, column, value, 'amin')
        self.levels = value.unique()
        self.key = self._key(column, value)
        # candidates of one column and one value share a group, ordered by query
        self.group = torch.cat([self.key.new_zeros(len(column[:1])), self.key.diff() != 0]).cumsum(0)
        self.group_key = self.group * self.shape[0] + self.query
        self.column = column
        self.count = torch.zeros_like(column)

    def _key(self, column: Tensor, value: Tensor) -> Tensor:
        """Keys that rise with the column and fall with the value; values between two levels fall between them."""
        level = torch.searchsorted(self.levels, value)
        exact = self.levels[level.clamp(max=len(self.levels) - 1)] == value
        return column * (2 * len(self.levels) + 1) + 2 * (len(self.levels) - level) - exact.long()

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Count a tile's entries."""
        first, last = self.start[columns.start].item(), self.start[columns.stop].item()
        if first == last:
            return
        query, column = (tile >= self.lowest[columns]).nonzero(as_tuple=True)
        value, query, column = tile[query, column], query + rows.start, column + columns.start
        key = self._key(column, value)
        place = torch.searchsorted(self.key[first:last], key) + first
        # an entry that equals a candidate stands before those of higher queries only, maybe before none of its column
        equal = (self.key[place] == key).nonzero().squeeze(1)
        group_key = self.group[place[equal]] * self.shape[0] + query[equal]
        after = torch.searchsorted(self.group_key[first:last], group_key, right=True) + first
        none = self.column[after.clamp(max=last - 1)] != column[equal]
        place[equal] = after.masked_fill_(none, last)
        self.count[first:last] += torch.bincount(place - first, minlength=int(last - first))[: last - first]

    def positions(self) -> Tensor:
        """0-based position of the query in each candidate's list, int64 (Q, k); Q where it is not valid."""
        until = torch.cat([self.count.new_zeros(1), self.count.cumsum(0)])
        position = torch.full((self.shape[0] * self.shape[1],), self.shape[0], device=self.count.device)
        position[self.order] = until[1:] - until[self.start[self.column]]
        return position.view(self.shape)
