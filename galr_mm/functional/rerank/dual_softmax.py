r"""Dual softmax (DSL): similarity times a softmax over the queries that want the same gallery item.

.. math::
    score_{qc} = S_{qc} \cdot \frac{e^{\beta S_{qc}}}{\sum_{q'} e^{\beta S_{q'c}}}

Source: CAMoE, Cheng et al., "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss",
arXiv 2109.04290, the prior of its Dual Softmax Loss, applied to the similarities of a test as the authors do. Within a
row the loss takes a second softmax of this product, which keeps the order and is left out here.

Transductive: the sum runs over the other queries of the test. With a bank it runs over the bank's queries instead,
:math:`q' \in bank`, and no other query of the test is seen; the prior of a query outside the bank may then exceed 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.checks import check_positive
from galr_mm.functional.rerank.column_statistics import ColumnSoftmax
from galr_mm.functional.rerank.hubs import HubCorrection, Statistic, Tiles, bounded_exp, correct_hubs


@dataclass(frozen=True)
class DualSoftmax(HubCorrection):
    """The formula at the top of this module.

    Args:
        scale: beta; the larger, the fewer of the other queries count.

    Raises:
        ValueError: for a scale that is not a finite number above 0.

    Example:
        >>> import torch
        >>> from galr_mm.functional import BankReranker
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1]])  # all want the first item more
        >>> BankReranker(bank, gallery, DualSoftmax(scale=5.0), top=2)(torch.tensor([0.92, 0.28])).indices
        tensor([1, 2])
    """

    scale: float = 20.0

    def __post_init__(self) -> None:
        check_positive('scale', self.scale)

    def statistic(self, tiles: Tiles, filler: float | None) -> Statistic:
        """Logarithm of the sum of exponentials."""
        return ColumnSoftmax(tiles.shape[1], tiles.device, filler, self.scale)

    def scores(self, tile: Tensor, columns: slice, statistic: Statistic, value: Tensor, index: Tensor) -> Tensor:
        """Scores of a tile; in logarithms, so that none becomes zero and the order is kept at any scale."""
        tile = tile.double()
        return tile.sign() * bounded_exp(tile.abs().log() + (float(self.scale) * tile - statistic.of(columns)))


def dual_softmax_rerank(
    similarity: Array,
    scale: float = 20.0,
    bank: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Similarity times its softmax over the queries (DSL), float64 (Q, N), whose order in each row is the new order.

    The formula is at the top of its module. Beyond e^-700 and e^700 scores are continued by a function that keeps the
    order, so a large scale ties only what differs by less than 1e-12 of scale times similarity in the exponent.

    Args:
        similarity: (Q, N), rows are queries.
        scale: beta, the factor of similarities in the softmax.
        bank: (P, N), similarities of other queries, such as training captions, to the same gallery; the softmax runs
            over them in place of the queries. With the query set itself as bank nothing changes.
        filler: value, below all others, of pairs that were not scored: they do not count, and stay below all others.

    Raises:
        ValueError: for a scale that is not a finite number above 0, and as :func:`~galr_mm.functional.correct_hubs`.

    Example:
        Item 1 is a hub, the best of both queries; query 1 wants it more, so query 0 gets item 0:

        >>> import torch
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> dual_softmax_rerank(similarity, scale=10.0).argsort(dim=1, descending=True)
        tensor([[0, 1, 2],
                [1, 2, 0]])
        >>> similarity = similarity.double()
        >>> dual_softmax_rerank(similarity, scale=10.0).allclose(similarity * (10 * similarity).softmax(dim=0))
        True
    """
    return correct_hubs(similarity, DualSoftmax(scale), bank, filler)
