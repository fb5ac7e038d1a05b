"""What the significance term of the multivariate rerank divides by, gathered column by column over tiles."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

NEAR_ZERO = 0.01  # of the sum of magnitudes


class NearZeroSumsWarning(UserWarning):
    """The columns of many candidates have no sum that a similarity could be a fraction of."""


class ColumnStatistic(Protocol):
    """A statistic of the columns of a similarity matrix (Q, N) that is filled tile by tile."""

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""

    def significance(self, similarity: Tensor, index: Tensor) -> Tensor:
        """How much each query stands out in the columns of its candidates.

        Shapes:
            - similarity, index: (Q, k), the candidates and their columns
            - output: float64 (Q, k)
        """


def column_statistic(
    columns: int, device: torch.device, significance: str, filler: float | None = None
) -> ColumnStatistic:
    r"""The statistic of a matrix with N = ``columns`` that goes with a value of ``significance``.

    'ratio' divides by the column sum. A column whose sum is near zero or negative has no such ratio: the divisor is
    kept at or above 1 % of the column's sum of magnitudes, which changes nothing where the sum is clearly positive.
    Where that happens to more than a tenth of the candidates, a :class:`NearZeroSumsWarning` says so. 'softmax' is the
    softmax over the column, 'off' a term of 0.
    """
    if significance == 'off':
        return NoStatistic()
    return (ColumnSums if significance == 'ratio' else ColumnSoftmax)(columns, device, filler)


class GuardedSums:
    """Base of column sums: ``total`` and ``magnitude``, the sum of the column's magnitudes, float64 (N,)."""

    total: Tensor
    magnitude: Tensor

    def significance(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Similarity over the column sum, which is kept at or above 1 % of the column's magnitudes."""
        floor = NEAR_ZERO * self.magnitude
        guarded = (self.total < floor)[index].double().mean().item()
        if guarded > 0.1:
            warnings.warn(
                NearZeroSumsWarning(
                    "significance='ratio' divides by sums over queries, and for many candidates they are near zero or "
                    'negative: this term means little here and can outweigh the others. Compare with '
                    "significance='softmax' or 'off' (rerank_cfg.mr.significance, --significance)"
                ),
                stacklevel=2,
            )
        divisor = torch.maximum(self.total, floor)
        divisor = torch.where(divisor > 0, divisor, 1.0)  # a column of zeros: every ratio is 0
        return similarity.double() / divisor[index]


class ColumnSums(GuardedSums):
    """Sums of the columns of the tiles; entries that equal ``filler`` do not count."""

    def __init__(self, columns: int, device: torch.device, filler: float | None = None) -> None:
        self.total, self.magnitude = torch.zeros(2, columns, dtype=torch.float64, device=device)
        self.filler = filler

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if self.filler is not None:
            tile = tile.masked_fill(tile == self.filler, 0)
        wide = tile.double()
        total = wide.sum(0)
        self.total[columns] += total
        self.magnitude[columns] += total if tile.amin() >= 0 else wide.abs().sum(0)


class FeatureColumnSums(GuardedSums):
    """Sums from the summed features; the tiles are read only where a sum may need the guard.

    Args:
        queries: (Q, D).
        gallery: (N, D).
    """

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        summed = torch.stack([part.sum(0) for part in _blocks(queries)]).sum(0)
        length = torch.stack([part.norm(dim=1).sum() for part in _blocks(queries)]).sum()
        self.total = torch.cat([part @ summed for part in _blocks(gallery)])
        # |q . g| <= |q| |g|: above this bound no column needs its magnitudes
        self.bound = torch.cat([NEAR_ZERO * length * part.norm(dim=1) for part in _blocks(gallery)])
        self.magnitude = torch.zeros_like(self.total)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if (self.total[columns] <= self.bound[columns]).any():
            self.magnitude[columns] += _magnitudes(tile)


class ColumnSoftmax:
    """Logarithm of the sum of exponentials of each column times ``scale``; ``filler`` does not count.

    Equal columns get equal sums, to the bit, wherever they stand: gallery items that tie go on to tie.
    """

    def __init__(self, columns: int, device: torch.device, filler: float | None = None, scale: float = 1.0) -> None:
        self.highest = torch.full((columns,), -torch.inf, dtype=torch.float64, device=device)
        self.sum = torch.zeros_like(self.highest)  # of exponentials of what is below the highest by so much
        self.filler = filler
        self.scale = float(scale)  # torch takes no int of more than 64 bits

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        if self.filler is not None:
            tile = tile.masked_fill(tile == self.filler, -torch.inf)
        tile = tile.double() * self.scale
        before, highest = self.highest[columns], torch.maximum(self.highest[columns], tile.amax(0))
        zero = highest.masked_fill(highest == -torch.inf, 0)  # nothing was scored yet: every exponential is 0
        self.sum[columns] = self.sum[columns] * (before - zero).exp() + _sum_rows_(tile.sub_(zero).exp_())
        self.highest[columns] = highest

    def of(self, columns: slice) -> Tensor:
        """The logarithms of some columns, float64 (w,); 0 where nothing was scored."""
        highest = self.highest[columns]
        return torch.where(highest > -torch.inf, highest + self.sum[columns].log(), 0.0)

    def significance(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Softmax over the column."""
        return (similarity.double() * self.scale - self.of(slice(None))[index]).exp()


class NoStatistic:
    """Stands for a significance term that is off."""

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""

    def significance(self, similarity: Tensor, index: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(similarity, dtype=torch.float64)


def _blocks(feats: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in feats.split(4096))


def _sum_rows_(tile: Tensor) -> Tensor:
    """Sum of each column of a tile (b, w), whose memory is used up.

    Whole rows are added, the lower half to the upper one; torch.sum adds columns at the end of a row in another order.
    """
    while len(tile) > 1:
        half = (len(tile) + 1) // 2
        tile[: len(tile) - half] += tile[half:]
        tile = tile[:half]
    return tile[0]


def _magnitudes(tile: Tensor) -> Tensor:
    """Sum of the magnitudes of each column of a tile (b, w), float64 (w,)."""
    return tile.double().abs().sum(0)  # several times as fast as vector_norm
