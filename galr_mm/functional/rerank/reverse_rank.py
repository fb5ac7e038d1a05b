"""Reverse rank alone, the re-ranking of MTFN-RR: the third term of the multivariate rerank."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.rerank.multivariate import multivariate_rerank


def reverse_rank_rerank(
    similarity: Array,
    k: int = 30,
    decay: float = 0.05,
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Order the k best by the query's position in their own lists only (MTFN-RR, Wang et al., 2019).

    Arguments, result and errors as for :func:`~galr_mm.functional.multivariate_rerank`.

    Example:
        >>> import torch
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> reverse_rank_rerank(similarity, k=2).argsort(dim=1, descending=True)
        tensor([[0, 1, 2],
                [1, 2, 0]])
    """
    return multivariate_rerank(
        similarity,
        k,
        (0.0, 0.0, 1.0),
        decay,
        significance='off',
        tail=tail,
        reverse_similarity=reverse_similarity,
        filler=filler,
    )
