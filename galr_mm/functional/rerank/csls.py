r"""Cross-domain similarity local scaling (CSLS): similarity against how near the neighbors of both sides are.

.. math::
    score_{qc} = 2 S_{qc} - r_q - r_c, \quad
    r_q = \frac{1}{k} \sum_{c' \in \mathcal{N}(q)} S_{qc'}, \quad r_c = \frac{1}{k} \sum_{q' \in \mathcal{N}(c)} S_{q'c}

with :math:`\mathcal{N}(q)` the k gallery items nearest to q, and :math:`\mathcal{N}(c)` the k queries nearest to c.
Within a row :math:`r_q` is the same for all items: only :math:`r_c` changes the order.

Source: Conneau et al., "Word Translation Without Parallel Data", ICLR 2018, Sec. 2.3; similarities there are cosines.

Transductive: the neighbors of c are other queries of the test. With a bank they are the bank's queries instead, and no
other query of the test is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.checks import check_whole
from galr_mm.functional.rerank.hubs import HubCorrection, Statistic, Tiles, correct_hubs
from galr_mm.functional.rerank.top_k import RunningTopK


class NearestQueries:
    """The k largest similarities of each column, tile by tile; fewer where there are fewer that were scored."""

    def __init__(self, tiles: Tiles, k: int, filler: float | None) -> None:
        queries, gallery = tiles.shape
        self.best = RunningTopK(gallery, queries, k, tiles.dtype, tiles.device)
        self.filler = filler

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""
        self.best.update(columns, rows, tile.t().contiguous())

    def of(self, columns: slice) -> Tensor:
        """Their means for some columns, float64 (w,)."""
        return _mean(self.best.value[columns], self.filler)


@dataclass(frozen=True)
class CSLS(HubCorrection):
    """The formula at the top of this module.

    Args:
        k: neighbors on each side; 10 in the paper. Where there are fewer, all of them.

    Raises:
        ValueError: for a k that is not a whole number of 1 or more.

    Example:
        >>> import torch
        >>> from galr_mm.functional import correct_hubs_from_features
        >>> query, gallery = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[0.25, 0.5], [0.5, 1.0], [1.0, 0.0]])
        >>> correct_hubs_from_features(query, gallery, CSLS(k=1), top=2).indices
        tensor([[1, 2],
                [1, 0]])
    """

    k: int = 10

    def __post_init__(self) -> None:
        check_whole('k', self.k)

    @property
    def nearest(self) -> int:
        """The neighbors of a query."""
        return int(self.k)

    def statistic(self, tiles: Tiles, filler: float | None) -> Statistic:
        """Mean similarity of the k nearest queries."""
        return NearestQueries(tiles, int(self.k), filler)

    def scores(self, tile: Tensor, columns: slice, statistic: Statistic, value: Tensor, index: Tensor) -> Tensor:
        """Scores of a tile."""
        assert isinstance(statistic, NearestQueries)  # its own
        return 2 * tile.double() - _mean(value)[:, None] - statistic.of(columns)


def _mean(value: Tensor, filler: float | None = None) -> Tensor:
    """Mean of each row (n, k) without fillers, float64 (n,); 0 where nothing was scored."""
    counted = value.isfinite() if filler is None else value != filler
    return value.double().masked_fill(~counted, 0).sum(1) / counted.sum(1).clamp(min=1)


def csls_rerank(
    similarity: Array,
    k: int = 10,
    bank: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Cross-domain similarity local scaling, float64 (Q, N), whose order in each row is the new order.

    The formula is at the top of its module. The result of the transpose is the transpose of the result, but for
    rounding.

    Args:
        similarity: (Q, N), rows are queries.
        k: neighbors on each side; where there are fewer, all of them.
        bank: (P, N), similarities of other queries, such as training captions, to the same gallery; the neighbors of a
            gallery item are taken from them in place of the queries. With the query set itself as bank nothing changes.
        filler: value, below all others, of pairs that were not scored: they do not count, and stay below all others.

    Raises:
        ValueError: for a k that is not a whole number of 1 or more, and as :func:`~galr_mm.functional.correct_hubs`.

    Example:
        Item 1 is a hub, the best of both queries; query 1 wants it more, so query 0 gets item 0:

        >>> import torch
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> csls_rerank(similarity, k=1)
        tensor([[-0.2500, -0.2500, -0.7500],
                [-1.0000,  0.0000, -0.5000]], dtype=torch.float64)
        >>> csls_rerank(similarity, k=1).argsort(dim=1, descending=True, stable=True)  # equal ones by lower index
        tensor([[0, 1, 2],
                [1, 2, 0]])
    """
    return correct_hubs(similarity, CSLS(k), bank, filler)
