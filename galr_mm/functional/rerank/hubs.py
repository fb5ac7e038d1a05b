r"""Corrections of hubs, gallery items that are near to every query: one score for each pair, no candidates.

A score depends on the similarity of the pair, on what a set of queries says about the gallery item (a statistic of its
column) and, for some, on the query's own nearest items. The set is the query set itself, or a bank of other queries,
such as those of the training split, in its place:

==========================================  ==================================  =================
correction                                  statistic of a column               set of queries
==========================================  ==================================  =================
:class:`~galr_mm.functional.DualSoftmax`    sum of exponentials                 query set or bank
:class:`~galr_mm.functional.QueryBankNorm`  sum of exponentials                 bank
:class:`~galr_mm.functional.CSLS`           mean of the k largest similarities  query set or bank
==========================================  ==================================  =================

Everything works on tiles, in two passes: one for the statistic, one for the scores. Scores are float64, because
exponentials span more orders of magnitude than float32 holds. Equal scores are ordered by lower index, as everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, as_tensor
from galr_mm.functional.checks import check_whole
from galr_mm.functional.recall import check_finite
from galr_mm.functional.rerank.checks import check_filler, prepare, prepare_features
from galr_mm.functional.rerank.from_features import Ranking
from galr_mm.functional.rerank.tiles import FeatureTiles, MatrixTiles
from galr_mm.functional.rerank.top_k import RunningTopK
from galr_mm.messages import shorten

EXPONENT = 700.0  # within these bounds exp() of float64 is neither zero nor infinite

Tiles = MatrixTiles | FeatureTiles
Tile = tuple[slice, slice, Tensor]


class Statistic(Protocol):
    """A statistic of the columns of a matrix (queries, gallery), filled tile by tile."""

    def update(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take a tile in."""

    def of(self, columns: slice) -> Tensor:
        """The statistic of some columns, float64 (w,)."""


class HubCorrection(ABC):
    """A formula with its parameters. Subclasses are frozen dataclasses.

    Attributes:
        needs_bank: whether the query set itself cannot take the place of a bank.

    Example:
        >>> from galr_mm.functional import CSLS, QueryBankNorm
        >>> CSLS(k=5).needs_bank, QueryBankNorm(scale=20.0).needs_bank
        (False, True)
    """

    needs_bank: ClassVar[bool] = False

    @property
    def nearest(self) -> int:
        """How many of a query's own nearest gallery items the formula wants."""
        return 0

    @abstractmethod
    def statistic(self, tiles: Tiles, filler: float | None) -> Statistic:
        """An empty statistic for the columns of these tiles."""

    @abstractmethod
    def scores(self, tile: Tensor, columns: slice, statistic: Statistic, value: Tensor, index: Tensor) -> Tensor:
        """Scores of a tile.

        Shapes:
            - tile: (b, w), the columns ``columns`` of the gallery
            - value, index: (b, nearest), similarities and indices of each query's nearest gallery items, -inf for pairs
              that were not scored
            - output: float64 (b, w)
        """


def bounded_exp(exponent: Tensor) -> Tensor:
    """The exponential within +-700, continued beyond so that it rises on and is neither zero nor infinite; 0 for -inf.

    Exponents beyond that differ by 1e-12 of their size give other results.

    >>> bounded_exp(torch.tensor([-torch.inf, -2e30, -1e30, 0.0, 1e30, 2e30], dtype=torch.float64)).diff() > 0
    tensor([True, True, True, True, True])
    """
    beyond = 1 + (exponent.abs().clamp(min=EXPONENT) / EXPONENT).log()  # 1 at the bounds, at most 704
    beyond = torch.where(exponent > EXPONENT, beyond, 1 / beyond)
    return exponent.clamp(-EXPONENT, EXPONENT).exp() * beyond


def learn(correction: HubCorrection, tiles: Tiles, bank: Tiles | None) -> tuple[Statistic, RunningTopK]:
    """The statistic of the gallery, filled from the bank or from the queries themselves, and the queries' nearest.

    Raises:
        ValueError: for similarities that are not finite, or a missing bank.
    """
    if bank is not None:
        return statistic_of(correction, bank), nearest_of(correction, tiles)
    if correction.needs_bank:
        raise ValueError(f'{correction!r} needs a bank of queries')
    statistic, nearest = correction.statistic(tiles, tiles.filler), _empty(correction, tiles)
    for view in _finite(tiles):  # one pass for both
        statistic.update(*view)
        if nearest.k:
            nearest.update(*view)
    return statistic, nearest


def statistic_of(correction: HubCorrection, bank: Tiles) -> Statistic:
    """The statistic of the gallery that a bank of queries gives."""
    statistic = correction.statistic(bank, bank.filler)
    for view in _finite(bank):
        statistic.update(*view)
    return statistic


def nearest_of(correction: HubCorrection, tiles: Tiles) -> RunningTopK:
    """The queries' nearest gallery items, as many as the correction wants."""
    nearest = _empty(correction, tiles)
    if nearest.k:
        for view in _finite(tiles):
            nearest.update(*view)
    return nearest


def score(
    correction: HubCorrection, statistic: Statistic, nearest: RunningTopK, tiles: Tiles
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """The tiles with their scores, float64.

    Raises:
        ValueError: for similarities that are not finite, or so large that scores overflow.
    """
    for rows, columns, tile in _finite(tiles):
        scores = correction.scores(tile, columns, statistic, nearest.value[rows], nearest.index[rows])
        check_finite(scores, f'scores of {correction!r}')
        yield rows, columns, tile, scores


def best_scores(
    correction: HubCorrection, statistic: Statistic, nearest: RunningTopK, tiles: Tiles, top: int
) -> Ranking:
    """The highest scores of each query."""
    best = RunningTopK(*tiles.shape, int(top), torch.float64, tiles.device)
    for rows, columns, _, scores in score(correction, statistic, nearest, tiles):
        best.update(rows, columns, scores)
    return Ranking(best.index, best.value)


def _check(correction: HubCorrection) -> None:
    if not isinstance(correction, HubCorrection):
        raise ValueError(f'correction is {shorten(correction)}, expected one such as CSLS(k=10)')


def _empty(correction: HubCorrection, tiles: Tiles) -> RunningTopK:
    return RunningTopK(*tiles.shape, correction.nearest, tiles.dtype, tiles.device)


def _finite(tiles: Tiles) -> Iterator[Tile]:
    for rows, columns, tile in tiles:
        tiles.check(tile)
        yield rows, columns, tile


def correct_hubs(
    similarity: Array,
    correction: HubCorrection,
    bank: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Corrected scores of a matrix, float64 (Q, N), whose order in each row is the new order.

    Args:
        similarity: (Q, N), rows are queries.
        correction: such as ``DualSoftmax(scale=20.0)``.
        bank: (P, N), similarities of other queries to the same gallery; they take the place of the query set in the
            statistic of each column.
        filler: value, below all others, of pairs that were not scored: they do not count, and stay below all others.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where the first is), an empty matrix, a bank of
            another gallery or a missing one, a filler that is not below all others, or scores that overflow.

    Example:
        Item 1 is a hub, the best of both queries:

        >>> from galr_mm.functional import CSLS
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> correct_hubs(similarity, CSLS(k=2)).argsort(dim=1, descending=True)
        tensor([[0, 1, 2],
                [1, 2, 0]])
    """
    check_filler(filler)
    _check(correction)
    similarity = prepare(similarity)
    tiles, seen = MatrixTiles(similarity, filler), None
    if bank is not None:
        bank = prepare(bank, 'bank').to(similarity.device)
        if bank.shape[1] != similarity.shape[1]:
            raise ValueError(
                f'expected a bank (P, {similarity.shape[1]}) beside similarity {tuple(similarity.shape)}, got '
                f'{tuple(bank.shape)}'
            )
        seen = MatrixTiles(bank, filler, 'bank')
    statistic, nearest = learn(correction, tiles, seen)
    if tiles.filler is not None:
        nearest.value[nearest.value == tiles.filler] = -torch.inf
    out = torch.empty(similarity.shape, dtype=torch.float64, device=similarity.device)
    for rows, _, tile, scores in score(correction, statistic, nearest, tiles):
        if tiles.filler is not None:
            lowest = scores.amin(dim=1, keepdim=True)
            scores = torch.where(tile == tiles.filler, lowest - lowest.abs() - 1, scores)
        out[rows] = scores
    return out


def correct_hubs_from_features(
    query_feats: Array,
    gallery_feats: Array,
    correction: HubCorrection,
    top: int = 30,
    bank_feats: Array | None = None,
) -> Ranking:
    """The highest corrected scores of the dot products of features, without their matrix.

    The products are made twice, tile by tile, and with a bank those of the bank too: memory grows as (Q + N) (top + D).

    Args:
        query_feats: (Q, D), used as given: L2-normalize them for cosines.
        gallery_feats: (N, D), on the same device.
        correction: such as ``DualSoftmax(scale=20.0)``.
        top: how many gallery items of each query are given.
        bank_feats: (P, D), features of other queries, which take the place of the query set.

    Returns:
        ``(indices, scores)``, each (Q, min(top, N)), best first: those of :func:`correct_hubs`, in its order where
        similarities differ by more than rounding.

    Raises:
        ValueError: as :func:`correct_hubs`, or when the features do not fit each other.

    Example:
        >>> from galr_mm.functional import DualSoftmax
        >>> query, gallery = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[0.25, 0.5], [0.5, 1.0], [1.0, 0.0]])
        >>> correct_hubs_from_features(query, gallery, DualSoftmax(scale=10.0), top=2).indices
        tensor([[2, 1],
                [1, 0]])
    """
    check_whole('top', top)
    _check(correction)
    queries, gallery = prepare_features(query_feats=query_feats, gallery_feats=gallery_feats)
    seen = None
    if bank_feats is not None:
        bank, _ = prepare_features(bank_feats=bank_feats, gallery_feats=gallery)
        seen = FeatureTiles(bank, gallery)
    tiles = FeatureTiles(queries, gallery)
    return best_scores(correction, *learn(correction, tiles, seen), tiles, top)


class BankReranker:
    """Corrects the hubs of new queries, one or several at a time; the bank of queries is read once.

    A query costs one product with the gallery. The result is that of :func:`correct_hubs_from_features` with this bank,
    whatever the other queries are.

    Args:
        bank: (P, D) features of queries, in the direction that is asked: captions for caption queries.
        gallery: (N, D) features.
        correction: such as ``QueryBankNorm(scale=20.0)``.
        top: how many gallery items of each query are given.

    Raises:
        ValueError: when the features do not fit each other or hold NaN or infinity.

    Example:
        >>> from galr_mm.functional import QueryBankNorm
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1]])  # all want the first item more
        >>> query = torch.tensor([0.92, 0.28])
        >>> (gallery @ query).argsort(descending=True)
        tensor([0, 1, 2])
        >>> BankReranker(bank, gallery, QueryBankNorm(scale=5.0), top=2)(query).indices
        tensor([2, 1])
    """

    def __init__(
        self,
        bank: Array,
        gallery: Array,
        correction: HubCorrection,
        top: int = 30,
    ) -> None:
        check_whole('top', top)
        bank, self.gallery = prepare_features(bank=bank, gallery=gallery)
        self.top = int(top)
        self.correction = correction
        self.statistic = statistic_of(correction, FeatureTiles(bank, self.gallery))

    def __call__(self, query: Array) -> Ranking:
        """Indices and scores, best first, each (top,) for the features (D,) of a query, (n, top) for those of n.

        Raises:
            ValueError: when the features do not fit the gallery or hold NaN or infinity.
        """
        query = as_tensor(query, 'query').to(self.gallery.device)
        queries, _ = prepare_features(query=query[None] if query.ndim == 1 else query, gallery=self.gallery)
        tiles = FeatureTiles(queries, self.gallery)
        nearest = nearest_of(self.correction, tiles)
        indices, scores = best_scores(self.correction, self.statistic, nearest, tiles, self.top)
        return Ranking(indices[0], scores[0]) if query.ndim == 1 else Ranking(indices, scores)
