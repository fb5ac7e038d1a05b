from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, as_positives, as_ranks, as_tensor, check_labels
from galr_mm.messages import shorten


def is_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in a matrix, faster than ``isfinite`` of each value."""
    in_order = values if values.is_contiguous() else values.t()
    return not values.numel() or all(edge.isfinite() for edge in in_order.aminmax())


def check_finite(similarity: Tensor, name: str = 'similarities') -> None:
    """Raise ValueError that says how many values of a matrix are NaN or infinite, and where the first is."""
    if is_finite(similarity):
        return
    bad = ~similarity.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f'{int(bad.sum())} of {bad.numel()} {name} are NaN or infinite, the first at row {row}, column {column}'
        )


def check_topk(topk: Sequence[int]) -> tuple[int, ...]:
    """Values of k as a tuple; k may exceed the gallery, then every item counts.

    Raises:
        ValueError: for what is not whole numbers of 1 or more.
    """
    values = as_tensor(topk, 'topk')
    if values.ndim != 1 or not len(values) or values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(f'topk is {shorten(topk)}, expected whole numbers of 1 or more')
    if values.min() < 1:
        raise ValueError(f'topk is {shorten(topk)}, expected whole numbers of 1 or more')
    return tuple(values.tolist())


def retrieval_ranks(similarity: Array, positives: Array) -> Tensor:
    """0-based rank of the best-placed positive of each query; equal similarities are ordered by lower index.

    Shapes:
        - similarity: (Q, N), rows are queries
        - positives: bool (Q, N)
        - output: int64 (Q,), -1 for a query without any positive

    Raises:
        ValueError: when the shapes or the labels of two data frames differ, a similarity is not a number, NaN or
            infinite, or a positive is not true or false.

    >>> retrieval_ranks(torch.tensor([[0.9, 0.5, 0.9], [0.1, 0.2, 0.3]]), torch.tensor([[0, 0, 1], [0, 0, 1]]).bool())
    tensor([1, 0])
    """
    check_labels(similarity, positives)
    similarity, positives = as_tensor(similarity, 'similarity'), as_tensor(positives, 'positives')
    if similarity.shape != positives.shape or similarity.ndim != 2 or similarity.is_complex():
        raise ValueError(
            f'expected similarity and positives of one shape (Q, N), got {tuple(similarity.shape)} and '
            f'{tuple(positives.shape)}'
        )
    positives = as_positives(positives).to(similarity.device)
    check_finite(similarity)
    if not similarity.is_floating_point():
        similarity = similarity.double()
    if similarity.shape[1] == 0:
        return torch.full((len(similarity),), -1, device=similarity.device)
    index = torch.arange(similarity.shape[1], device=similarity.device)
    best = similarity.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)  # Q, 1
    tied = similarity == best
    first = torch.where(tied & positives, index, similarity.shape[1]).amin(dim=1, keepdim=True)
    ranks = (similarity > best).sum(1) + (tied & (index < first)).sum(1)
    return torch.where(positives.any(1), ranks, -1)


def recall_from_ranks(ranks: Array, topk: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """R@k in percent: the fraction of the queries whose best positive stands among the k best.

    Args:
        ranks: int64 (Q,), 0-based, from :func:`retrieval_ranks`; queries without any positive (-1) do not count.
        topk: the values of k.

    Raises:
        ValueError: when no query has a positive, or for ranks or a topk that are not whole numbers.

    >>> recall_from_ranks(torch.tensor([0, 3, -1, 7]), topk=(1, 5))
    {1: 33.33333333333333, 5: 66.66666666666666}
    """
    ranks, topk = as_ranks(ranks), check_topk(topk)
    counted = ranks[ranks >= 0]
    if not len(counted):
        raise ValueError(f'none of the {len(ranks)} queries has a positive')
    return {k: 100.0 * (counted < k).double().mean().item() for k in topk}


def recall_at_k(similarity: Array, positives: Array, topk: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """R@k of cross-modal retrieval in percent: the fraction of the queries with a positive among the k best.

    An image query scores if ANY of its captions is in the top k, a caption query if its image is. Queries without
    any positive (images without captions) do not count.

    Shapes:
        - similarity: (Q, N), rows are queries
        - positives: bool (Q, N)

    Raises:
        ValueError: when no query has a positive, or as in :func:`retrieval_ranks`.

    >>> recall_at_k(torch.tensor([[0.9, 0.5], [0.8, 0.7]]), torch.eye(2).bool(), topk=(1, 2))
    {1: 50.0, 2: 100.0}
    """
    return recall_from_ranks(retrieval_ranks(similarity, positives), topk)


def chance_recall_at_k(positives: Array, topk: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    r"""Expected R@k in percent of a random ranking: the mean over queries of :math:`1 - \binom{N-p}{k} / \binom{N}{k}`.

    Shapes:
        - positives: bool (Q, N), p positives of each query among N

    Raises:
        ValueError: when no query has a positive.

    >>> chance_recall_at_k(torch.eye(4).bool(), topk=(1, 2))
    {1: 25.0, 2: 50.0}
    """
    positives, topk = as_positives(positives), check_topk(topk)
    size = positives.shape[1]
    found = positives.sum(1)
    counts = found[found > 0].tolist()
    if not counts:
        raise ValueError(f'none of the {len(positives)} queries has a positive')
    miss = {
        (p, k): math.comb(size - p, min(k, size)) / math.comb(size, min(k, size)) for p in set(counts) for k in topk
    }
    return {k: 100.0 * sum(1 - miss[p, k] for p in counts) / len(counts) for k in topk}
