from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, as_tensor
from galr_mm.functional.rerank.candidates import Candidates
from galr_mm.functional.rerank.checks import check_options, prepare_features
from galr_mm.functional.rerank.column_statistics import column_statistic
from galr_mm.functional.rerank.from_features import Ranking, best_first
from galr_mm.functional.rerank.multivariate import multivariate_scores
from galr_mm.functional.rerank.tiles import FeatureTiles, require_finite
from galr_mm.functional.rerank.top_k import top_k


class QueryBankReranker:
    """Multivariate rerank of one new query: a bank of earlier or training queries stands in for the query set.

    MR compares a query with the other queries of the same gallery items; alone, a query has none and keeps its order.
    The result is that of :func:`galr_mm.functional.multivariate_rerank_from_features` for this query among the bank's,
    but for rounding: where the bank holds the same features, the first of them is the query, otherwise the query comes
    last.

    A query costs one product with the gallery and one of the bank with its k candidates, O((N + M k) D).

    Args:
        bank: (M, D) features of queries, in the direction that is asked: captions for caption queries.
        gallery: (N, D) features.

    The other arguments are those of :func:`galr_mm.functional.multivariate_rerank`.

    Raises:
        ValueError: when the features do not fit each other or hold NaN or infinity, or for an unknown option.

    Example:
        >>> import torch
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> query = torch.tensor([0.92, 0.28])
        >>> (gallery @ query).argsort(descending=True)
        tensor([0, 1, 2])
        >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1]])  # all want the first item more
        >>> QueryBankReranker(bank, gallery, k=2)(query).indices
        tensor([1, 0])
    """

    def __init__(
        self,
        bank: Array,
        gallery: Array,
        k: int = 30,
        weights: Sequence[float] = (0.3, 1.0, 1.1),
        decay: float = 0.05,
        reverse: Literal['ordinal', 'absolute'] = 'ordinal',
        reverse_top: int | None = None,
        significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
    ) -> None:
        bank, gallery = prepare_features(bank=bank, gallery=gallery)
        check_options(k, weights, decay, reverse, reverse_top, significance)
        self.formula = partial(
            multivariate_scores, weights=weights, decay=decay, reverse=reverse, reverse_top=reverse_top
        )
        self.k = int(k)
        tiles = FeatureTiles(bank, gallery)
        self.bank, self.gallery = bank.to(tiles.dtype), gallery.to(tiles.dtype)
        self.statistic = column_statistic(len(gallery), gallery.device, significance)
        if significance != 'off':
            for rows, columns, tile in tiles:
                require_finite(tile)
                self.statistic.update(rows, columns, tile)

    def __call__(self, query: Array) -> Ranking:
        """Indices and scores, each (k,), best first, for the features (D,) of a query.

        Raises:
            ValueError: when the query is not (D,) or holds NaN or infinity.
        """
        query = as_tensor(query, 'query').to(self.gallery.device)
        if query.ndim != 1:
            raise ValueError(f'expected one query (D,), got shape {tuple(query.shape)}')
        query, _ = prepare_features(query=query[None], gallery=self.gallery[:1])
        query = query.to(self.gallery.dtype)
        similarity = query @ self.gallery.t()
        require_finite(similarity)
        value, index = top_k(similarity, self.k)
        _, reverse, in_bank = _against_bank(self.bank, query[0], self.gallery[index[0]], value[0])
        statistic = self.statistic
        if not in_bank:
            statistic = copy.deepcopy(statistic)
            statistic.update(slice(0, 1), slice(0, len(self.gallery)), similarity)
        candidates = Candidates(index, value, statistic.significance(value, index), reverse[None])
        indices, scores = best_first(candidates, self.formula(candidates))
        return Ranking(indices[0], scores[0])


def rerank_candidates(
    bank: Array,
    query: Array,
    candidates: Array,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    reverse_top: int | None = None,
    significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
) -> Ranking:
    """Multivariate rerank of the candidates of one query, whatever found them, by their features alone.

    Everything MR asks of a gallery item is in the item's own column, so this is what :class:`QueryBankReranker` gives
    for the whole gallery whose best items these are, but for rounding. It costs one product of the bank with them.

    Args:
        bank: (M, D) features of queries, finite.
        query: (D,).
        candidates: (k, D), in the order of their indices, by which equal similarities and scores are ordered.
        weights: as in :func:`~galr_mm.functional.multivariate_rerank`, and so are the next four.
        decay: lambda.
        reverse: 'ordinal' or 'absolute'.
        reverse_top: how far down a candidate's list the reverse term counts.
        significance: 'ratio', 'softmax' or 'off'.

    Returns:
        Positions among the candidates and scores, each (k,), best first.

    Raises:
        ValueError: when query, candidates or bank hold NaN or infinity or do not fit each other, or for an unknown
            option.

    Example:
        >>> import torch
        >>> candidates, query = torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([0.92, 0.28])
        >>> (candidates @ query).argsort(descending=True)
        tensor([0, 1])
        >>> bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1]])  # all want the first item more
        >>> rerank_candidates(bank, query, candidates).indices
        tensor([1, 0])
    """
    check_options(1, weights, decay, reverse, reverse_top, significance)
    queries, candidates = prepare_features(query=as_tensor(query)[None], candidates=candidates)
    bank = as_tensor(bank, 'bank').to(candidates.device)
    if bank.ndim != 2 or bank.shape[1] != candidates.shape[1] or bank.is_complex():
        raise ValueError(
            f'expected a bank (M, {candidates.shape[1]}) of real values, got shape {tuple(bank.shape)} of {bank.dtype}'
        )
    dtype = reduce(torch.promote_types, (queries.dtype, candidates.dtype, bank.dtype), torch.float32)
    queries, candidates, bank = queries.to(dtype), candidates.to(dtype), bank.to(dtype)
    value, index = top_k(queries @ candidates.t(), len(candidates))
    others, positions, in_bank = _against_bank(bank, queries[0], candidates[index[0]], value[0])
    require_finite(others, name='similarities of the bank to the candidates')  # cheaper than to look at the bank
    others = others if in_bank else torch.cat([others, value])
    statistic = column_statistic(len(candidates), candidates.device, significance)
    statistic.update(slice(0, len(others)), slice(0, len(candidates)), others)
    ranks = torch.arange(len(candidates))[None]  # the columns of ``others`` are in this order
    found = Candidates(index, value, statistic.significance(value, ranks), positions[None])
    scores = multivariate_scores(found, weights, decay, reverse, reverse_top)
    indices, scores = best_first(found, scores)
    return Ranking(indices[0], scores[0])


def _against_bank(bank: Tensor, query: Tensor, candidates: Tensor, value: Tensor) -> tuple[Tensor, Tensor, bool]:
    """What a bank says about the candidates (k, D) of a query, which have the similarities ``value`` (k,).

    Returns:
        Its similarities (M, k); the 0-based positions (k,) of the query in the candidates' own lists, where the first
        equal query of the bank is the query, which comes last otherwise; and whether there is such a one.
    """
    others = bank @ candidates.t()
    near = (bank[:, 0] == query[0]).nonzero().squeeze(1)  # whole rows are compared where the first value agrees
    same = near[(bank[near] == query).all(1)]
    others[same] = value  # whatever the rounding of the two products was
    place = int(same[0]) if len(same) else len(bank)
    positions = (others > value).sum(0) + (others[:place] == value).sum(0)
    return others, positions, bool(len(same))
