"""Similarity times the forward and the reverse term, a plain alternative to the multivariate rerank."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.rerank.candidates import Candidates
from galr_mm.functional.rerank.checks import check_options
from galr_mm.functional.rerank.multivariate import reverse_order
from galr_mm.functional.rerank.rescored import rescore


def product_scores(candidates: Candidates, decay: float = 0.05, reverse: str = 'ordinal') -> Tensor:
    """Similarity times forward and reverse term for the candidates, float64 (Q, k).

    Raises:
        ValueError: for similarities so large that a score is beyond their type.

    Example:
        >>> from galr_mm.functional import find_candidates
        >>> candidates, _ = find_candidates(torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]]), k=2)
        >>> product_scores(candidates, decay=0.0)
        tensor([[0.7500, 0.5000],
                [1.0000, 0.5000]], dtype=torch.float64)
    """
    forward = torch.arange(1, candidates.index.shape[1] + 1, device=candidates.index.device)
    similarity = candidates.similarity.double()
    if candidates.valid is not None:
        similarity = similarity.masked_fill(~candidates.valid, torch.inf)
    lowest = similarity.amin(dim=1, keepdim=True)
    if candidates.valid is not None:
        similarity = similarity.masked_fill(~candidates.valid, -torch.inf)
    spread = similarity.amax(dim=1, keepdim=True) - lowest
    above = torch.where(spread > 0, 1e-6 * spread, 1.0)  # just above zero, on the scale of this query
    positive = similarity + torch.where(lowest > 0, 0.0, above - lowest)
    scores = positive * (-decay * (forward + reverse_order(candidates, reverse) + 1).double()).exp()
    if not scores.amax().to(candidates.similarity.dtype) < torch.inf:  # NaN neither
        largest = candidates.similarity.abs().amax().item()
        raise ValueError(
            f'similarities are as large as {largest}, expected ones whose differences are numbers of '
            f'{candidates.similarity.dtype}'
        )
    return scores


def product_rerank(
    similarity: Array,
    k: int = 30,
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Similarity times forward and reverse term for the k best.

    A product of mixed signs has no order: where a query has a candidate at or below zero, all its candidates are moved
    up first, the lowest to just above zero. Arguments, result and errors as for
    :func:`~galr_mm.functional.multivariate_rerank`, and a ValueError for similarities so large that a score overflows.

    Example:
        >>> similarity = torch.tensor([[0.73, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> product_rerank(similarity, k=2, decay=0.1).argsort(dim=1, descending=True)
        tensor([[1, 0, 2],
                [1, 2, 0]])
    """
    check_options(k, decay=decay, reverse=reverse, tail=tail)
    formula = partial(product_scores, decay=decay, reverse=reverse)
    return rescore(similarity, k, formula, 'off', tail, reverse_similarity, filler).matrix()
