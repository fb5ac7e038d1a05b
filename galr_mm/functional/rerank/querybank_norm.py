r"""Querybank normalization (QB-Norm): the inverted softmax over a bank of queries.

.. math::
    score_{qc} = \frac{e^{\beta S_{qc}}}{\sum_{b \in bank} e^{\beta S_{bc}}}

The dynamic inverted softmax (DIS) does this only for a query whose most similar gallery item is also the most similar
one of a query of the bank (it is in the *activation set*); the similarities of other queries stay as they are.

Source: Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022, its Inverted Softmax and
Dynamic Inverted Softmax. The inverted softmax is of Smith et al., ICLR 2017.

Not transductive: the bank holds training queries, and a query of the test sees no other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.checks import check_positive, check_switch
from galr_mm.functional.rerank.column_statistics import ColumnSoftmax
from galr_mm.functional.rerank.hubs import HubCorrection, Statistic, Tiles, bounded_exp, correct_hubs
from galr_mm.functional.rerank.top_k import RunningTopK


class ActivatedSoftmax(ColumnSoftmax):
    """Sums of exponentials of a bank, and the most similar gallery item of each of its queries."""

    def __init__(self, tiles: Tiles, filler: float | None, scale: float) -> None:
        super().__init__(tiles.shape[1], tiles.device, filler, scale)
        self.best = RunningTopK(*tiles.shape, 1, tiles.dtype, tiles.device)

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        super().update(rows, columns, tile)
        self.best.update(rows, columns, tile)

    def holds(self, index: Tensor) -> Tensor:
        """Whether gallery items are in the activation set, bool of the shape of ``index``."""
        return torch.isin(index, self.best.index)


@dataclass(frozen=True)
class QueryBankNorm(HubCorrection):
    """The formula at the top of this module.

    Args:
        scale: beta; 20 in the paper.
        dynamic: correct only queries whose most similar item is in the activation set.

    Raises:
        ValueError: for a scale that is not a finite number above 0, or a ``dynamic`` that is not a bool.

    Example:
        >>> QueryBankNorm(scale=30.0, dynamic=True)
        QueryBankNorm(scale=30.0, dynamic=True)
    """

    scale: float = 20.0
    dynamic: bool = False
    needs_bank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive('scale', self.scale)
        check_switch('dynamic', self.dynamic)

    @property
    def nearest(self) -> int:
        """The most similar item of each query, for the dynamic variant."""
        return int(self.dynamic)

    def statistic(self, tiles: Tiles, filler: float | None) -> Statistic:
        """Logarithm of the sum of exponentials, and the activation set for the dynamic variant."""
        if self.dynamic:
            return ActivatedSoftmax(tiles, filler, self.scale)
        return ColumnSoftmax(tiles.shape[1], tiles.device, filler, self.scale)

    def scores(self, tile: Tensor, columns: slice, statistic: Statistic, value: Tensor, index: Tensor) -> Tensor:
        """Scores of a tile."""
        tile = tile.double()
        scores = bounded_exp(float(self.scale) * tile - statistic.of(columns))
        if isinstance(statistic, ActivatedSoftmax):
            scores = torch.where(statistic.holds(index), scores, tile)
        return scores


def querybank_rerank(
    similarity: Array,
    bank: Array,
    scale: float = 20.0,
    dynamic: bool = False,
    filler: float | None = None,
) -> Tensor:
    """Inverted softmax over a bank of queries (QB-Norm), float64 (Q, N), whose order in each row is the new order.

    The formula is at the top of its module. Beyond e^-700 and e^700 scores are continued by a function that keeps the
    order, so a large scale ties only what differs by less than 1e-12 of scale times similarity in the exponent.

    Args:
        similarity: (Q, N), rows are queries.
        bank: (P, N), similarities of other queries to the same gallery. With training queries nothing of the test set
            is used.
        scale: beta, the factor of similarities in the exponentials.
        dynamic: leave a query as it is unless its most similar item (of equal ones the first) is also the most similar
            one of a query of the bank.
        filler: value, below all others, of pairs that were not scored: they do not count, and stay below all others.

    Raises:
        ValueError: for a scale that is not a finite number above 0, and as :func:`~galr_mm.functional.correct_hubs`.

    Example:
        Item 1 is a hub, near to all queries of the bank:

        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 0.5, 0.75]])
        >>> bank = torch.tensor([[0.25, 1.0, 0.5], [0.0, 1.0, 0.25]])
        >>> querybank_rerank(similarity, bank, scale=10.0).argsort(dim=1, descending=True)
        tensor([[0, 2, 1],
                [2, 0, 1]])
        >>> querybank_rerank(similarity, bank, scale=10.0, dynamic=True)[1]  # no query of the bank likes item 2 best
        tensor([0.2500, 0.5000, 0.7500], dtype=torch.float64)
    """
    return correct_hubs(similarity, QueryBankNorm(scale, dynamic), bank, filler)
