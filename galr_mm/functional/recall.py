from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_finite(similarity: Tensor, name: str = 'similarities') -> None:
    """Raise ValueError that says how many numbers of a matrix are NaN or infinite, and where the first is."""
    bad = ~similarity.isfinite()
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f'{int(bad.sum())} of {bad.numel()} {name} are NaN or infinite, the first at row {row}, column {column}'
        )


def retrieval_ranks(similarity: Tensor, positives: Tensor) -> Tensor:
    """0-based rank of the best-placed positive of each query; equal similarities are ordered by lower index.

    Shapes:
        - similarity: (Q, N), rows are queries
        - positives: bool (Q, N)
        - output: int64 (Q,), -1 for a query without any positive

    Raises:
        ValueError: when the shapes differ or a similarity is NaN or infinite.

    >>> retrieval_ranks(torch.tensor([[0.9, 0.5, 0.9], [0.1, 0.2, 0.3]]), torch.tensor([[0, 0, 1], [0, 0, 1]]).bool())
    tensor([1, 0])
    """
    if similarity.shape != positives.shape or similarity.ndim != 2:
        raise ValueError(
            f'expected similarity and positives of one shape (Q, N), got {tuple(similarity.shape)} and '
            f'{tuple(positives.shape)}'
        )
    check_finite(similarity)
    if similarity.shape[1] == 0:
        return torch.full((len(similarity),), -1, device=similarity.device)
    index = torch.arange(similarity.shape[1], device=similarity.device)
    best = similarity.masked_fill(~positives, -torch.inf).amax(dim=1, keepdim=True)  # Q, 1
    tied = similarity == best
    first = torch.where(tied & positives, index, similarity.shape[1]).amin(dim=1, keepdim=True)
    ranks = (similarity > best).sum(1) + (tied & (index < first)).sum(1)
    return torch.where(positives.any(1), ranks, -1)


def recall_at_k(similarity: Tensor, positives: Tensor, topk: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Share in percent of the queries with a positive among the k best: the R@k of cross-modal retrieval.

    An image query scores if ANY of its captions is in the top k, a caption query if its image is. Queries without
    any positive (images without captions) do not count.

    Shapes:
        - similarity: (Q, N), rows are queries
        - positives: bool (Q, N)

    Raises:
        ValueError: when no query has a positive, or as in :func:`retrieval_ranks`.
    """
    ranks = retrieval_ranks(similarity, positives)
    ranks = ranks[ranks >= 0]
    if not len(ranks):
        raise ValueError(f'none of the {len(similarity)} queries has a positive')
    return {k: 100.0 * (ranks < k).double().mean().item() for k in topk}


def chance_recall_at_k(positives: Tensor, topk: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    r"""Expected R@k in percent of a random ranking: the mean over queries of :math:`1 - \binom{N-p}{k} / \binom{N}{k}`.

    Shapes:
        - positives: bool (Q, N), p positives of each query among N

    >>> chance_recall_at_k(torch.eye(4).bool(), topk=(1, 2))
    {1: 25.0, 2: 50.0}
    """
    size = positives.shape[1]
    right = positives.sum(1)
    counts = right[right > 0].tolist()
    miss = {
        (p, k): math.comb(size - p, min(k, size)) / math.comb(size, min(k, size)) for p in set(counts) for k in topk
    }
    return {k: 100.0 * sum(1 - miss[p, k] for p in counts) / len(counts) for k in topk}
