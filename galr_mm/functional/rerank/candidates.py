"""The k best gallery items of each query, and where the query stands in each one's own list, without sorting a matrix.

Everything works on tiles, parts of the similarity matrix that are cut from a given matrix or made from features, so the
memory beyond the result is a few tiles and a few numbers for each candidate. Two passes over the tiles do it: the first
takes the k best of each row and the column statistics; the second counts, for each gallery item, the queries that are
better for it than those that have it as a candidate. Only entries at or above the lowest such similarity of their
column can matter (5 % of them with images as queries on UCM, 21 % with captions); one comparison drops the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from galr_mm.functional.recall import check_finite

TILE = 1 << 21  # numbers in a tile: 8 MiB in float32, 16 in float64, which stays near the cache of a processor
WIDTH = 1 << 13  # columns of a tile that is made from features


def require_finite(tile: Tensor, whole: Tensor | None = None) -> None:
    """Raise ValueError for a tile with NaN or infinity; counted in the ``whole`` matrix where there is one."""
    if not all(edge.isfinite() for edge in tile.aminmax()):
        check_finite(tile if whole is None else whole)


class MatrixTiles:
    """Whole rows of a given matrix (Q, N) in float32 or wider, contiguous; the matrix is neither copied nor changed.

    Iterating gives slices of rows and of columns and the tile.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.dtype = torch.promote_types(matrix.dtype, torch.float32)
        self.device = matrix.device

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        size, columns = self.matrix.shape
        for rows in _slices(size, max(1, TILE // columns)):
            yield rows, slice(0, columns), self.matrix[rows].to(self.dtype).contiguous()


class FeatureTiles:
    """Products of features (Q, D) and (N, D), made anew in each pass; the two passes give the same numbers.

    Iterating gives slices of rows and of columns, rows outermost, and the tile.
    """

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        self.queries, self.gallery = queries, gallery
        self.dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
        self.device = queries.device
        self.width = min(WIDTH, len(gallery))
        self.height = max(1, TILE // self.width)

    def __len__(self) -> int:
        return -(-len(self.queries) // self.height) * -(-len(self.gallery) // self.width)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows in _slices(len(self.queries), self.height):
            queries = self.queries[rows].to(self.dtype)
            for part in _slices(len(self.gallery), self.width):
                yield rows, part, queries @ self.gallery[part].to(self.dtype).t()


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def top_k(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of a block (b, w), best first, equal ones by lower index.

    ``torch.topk`` picks any of several equal numbers; the rows where that matters are mended here.

    Returns:
        Values and int64 indices, both (b, min(k, w)).
    """
    k = min(k, block.shape[1])
    value, index = block.topk(min(k + 1, block.shape[1]), dim=1)
    if value.shape[1] > k:
        rows = (value[:, k] == value[:, k - 1]).nonzero().squeeze(1)  # equal numbers on both sides of the border
        value, index = value[:, :k].contiguous(), index[:, :k].contiguous()
        for part in rows.split(max(1, TILE // 4 // block.shape[1])):
            sub, border = block[part], value[part, -1:]
            above, equal = sub > border, sub == border
            room = k - above.sum(1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
            index[part] = chosen.nonzero()[:, 1].view(-1, k)
            value[part] = sub.gather(1, index[part])
    rows = (value[:, 1:] >= value[:, :-1]).any(dim=1).nonzero().squeeze(1)  # equal numbers inside, or mended just now
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


class ColumnSums:
    """Sum and sum of magnitudes of each column, float64 (N,); entries that equal ``filler`` do not count."""

    def __init__(self, columns: int, device: torch.device, filler: float | None = None) -> None:
        self.total, self.magnitude = torch.zeros(2, columns, dtype=torch.float64, device=device)
        self.filler = filler

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if self.filler is not None:
            tile = tile.masked_fill(tile == self.filler, 0)
        total = tile.sum(0, dtype=torch.float64)
        self.total[columns] += total
        self.magnitude[columns] += column_magnitudes(tile) if tile.min() < 0 else total

    def share(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Similarity over the guarded sum of its column, float64 (Q, k)."""
        return guarded_share(similarity, index, self.total, self.magnitude)


def column_magnitudes(tile: Tensor) -> Tensor:
    """Sum of the magnitudes of each column of a tile (b, w), float64 (w,)."""
    return torch.linalg.vector_norm(tile, 1, dim=0, dtype=torch.float64)


def guarded_share(similarity: Tensor, index: Tensor, total: Tensor, magnitude: Tensor) -> Tensor:
    """Similarity (Q, k) over the sums (N,) of its columns, kept at or above 1 % of their magnitudes (N,)."""
    divisor = torch.maximum(total, 0.01 * magnitude)
    divisor = torch.where(divisor > 0, divisor, 1.0)  # a column of zeros: every share is 0
    return similarity.double() / divisor[index]


class FeatureColumnSums:
    """Column sums (N,) from the summed features; magnitudes only for tiles with a sum that may need the guard."""

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        def blocks(feats: Tensor) -> Iterator[Tensor]:
            return (part.double() for part in feats.split(4096))

        summed = sum(part.sum(0) for part in blocks(queries))
        length = sum(part.norm(dim=1).sum() for part in blocks(queries))
        self.total = torch.cat([part @ summed for part in blocks(gallery)])
        # |q . g| <= |q| |g|: above this bound no column needs its magnitudes
        self.bound = torch.cat([0.01 * length * part.norm(dim=1) for part in blocks(gallery)])
        self.magnitude = torch.zeros_like(self.total)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if (self.total[columns] <= self.bound[columns]).any():
            self.magnitude[columns] += column_magnitudes(tile)

    def share(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Similarity over the guarded sum of its column, float64 (Q, k)."""
        return guarded_share(similarity, index, self.total, self.magnitude)


class ColumnSoftmax:
    """Logarithm of the sum of exponentials of each column, float64 (N,)."""

    def __init__(self, columns: int, device: torch.device, filler: float | None = None) -> None:
        self.total = torch.full((columns,), -torch.inf, dtype=torch.float64, device=device)
        self.filler = filler

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if self.filler is not None:
            tile = tile.masked_fill(tile == self.filler, -torch.inf)
        self.total[columns] = torch.logaddexp(self.total[columns], tile.double().logsumexp(0))

    def share(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Softmax over the column, float64 (Q, k)."""
        return (similarity.double() - self.total[index]).exp()


class NoShare:
    """Stands for column statistics that are not asked for."""

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""

    def share(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Zeros, float64 (Q, k)."""
        return torch.zeros_like(similarity, dtype=torch.float64)


class ReverseCounter:
    """Counts, for each candidate, the queries that stand before its own query in the candidate's list.

    A query stands before another if its similarity is larger, or equal and its index lower. Candidates are kept ordered
    by column, then as their queries stand in the list; an entry of a tile then counts for all candidates of its column
    from the first that it stands before, which binary search finds.

    Args:
        index: (Q, k) columns of the candidates.
        similarity: (Q, k) entries of the tiles at the candidates.
        columns: N.
        valid: bool (Q, k), candidates that count; None for all.

    Shapes, with P candidates that count:
        - order: (P,), where each stands in the flattened (Q, k); column, query, key, group, group_key, count: (P,)
        - start: (N + 1,), first candidate of each column; lowest: (N,), its lowest similarity, inf without candidates
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
        """Numbers that rise with the column and fall with the value; values between two levels fall between them."""
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
        self.count[first:last] += torch.bincount(place - first, minlength=last - first)[: last - first]

    def positions(self) -> Tensor:
        """0-based position of the query in each candidate's list, int64 (Q, k); Q where it is not valid."""
        until = torch.cat([self.count.new_zeros(1), self.count.cumsum(0)])
        position = torch.full((self.shape[0] * self.shape[1],), self.shape[0], device=self.count.device)
        position[self.order] = until[1:] - until[self.start[self.column]]
        return position.view(self.shape)
