r"""Re-ranking of a similarity matrix: pure functions, rows are queries.

For the k best gallery items c of query q (:math:`r` = 0-based position of c for q), the multivariate rerank of GaLR
(Sec. III-F) adds three terms:

.. math::
    p_s = \frac{S_{qc}}{\sum_{q'} S_{q'c}}, \quad p_f = e^{-\lambda (r + 1)}, \quad p_r = e^{-\lambda (o + 1)}, \quad
    score = w_s p_s + w_f p_f + w_r p_r

with :math:`o` the 0-based place of c among the k candidates when they are ordered by the position of q in c's own list
of all queries ('ordinal'), or that position itself ('absolute').

Ties: equal similarities are ordered by lower index, equal reverse positions keep the forward order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from galr_mm.evaluation.functional.recall import check_finite

REVERSES = ('ordinal', 'absolute')
SIGNIFICANCES = ('ratio', 'softmax', 'off')
TAILS = ('keep', 'zero')


class Candidates(NamedTuple):
    """The k best gallery items of each query.

    Shapes:
        - order: int64 (Q, N), all gallery items by falling similarity
        - similarity: (Q, k)
        - reverse: int64 (Q, k), 0-based position of the query in the candidate's own list of all queries
    """

    order: Tensor
    similarity: Tensor
    reverse: Tensor

    @property
    def index(self) -> Tensor:
        """Gallery numbers of the candidates, (Q, k)."""
        return self.order[:, : self.similarity.shape[1]]


def find_candidates(similarity: Tensor, k: int, reverse_similarity: Tensor | None = None) -> Candidates:
    """The k best of each row, and where the row's query stands in each candidate's own list."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    index = order[:, :k]
    backward = similarity.t() if reverse_similarity is None else reverse_similarity  # N, Q
    position = backward.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # N, Q
    rows = torch.arange(len(similarity), device=similarity.device)[:, None]
    return Candidates(order, similarity.gather(1, index), position[index, rows])


def significance_term(similarity: Tensor, candidates: Candidates, kind: str) -> Tensor:
    r"""How much a query stands out among all queries of a candidate, (Q, k).

    'ratio' divides by the column sum. A column whose sum is near zero or negative has no such share: the divisor is
    kept at or above 1 % of the column's sum of magnitudes, which changes nothing where the sum is clearly positive.
    'softmax' is the softmax over the column.
    """
    if kind == 'off':
        return torch.zeros_like(candidates.similarity)
    if kind == 'softmax':
        share = similarity.softmax(dim=0)
        return share.gather(1, candidates.index)
    total = similarity.sum(dim=0)
    divisor = torch.maximum(total, 0.01 * similarity.abs().sum(dim=0))
    divisor = torch.where(divisor > 0, divisor, 1.0)  # a column of zeros: every share is 0
    return candidates.similarity / divisor[candidates.index]


def reverse_order(candidates: Candidates, kind: str) -> Tensor:
    """Reverse order o of each candidate, (Q, k): its place among the candidates, or its own position."""
    if kind == 'absolute':
        return candidates.reverse
    return candidates.reverse.argsort(dim=1, stable=True).argsort(dim=1)


def place_scores(candidates: Candidates, scores: Tensor, tail: str) -> Tensor:
    """Spread the candidates' scores (Q, k) over the whole gallery (Q, N).

    'zero' gives everything else 0, as released. 'keep' puts it below all candidates in its old order: one less for each
    place further down.
    """
    out = scores.new_zeros(candidates.order.shape)
    if tail == 'keep':
        below = torch.arange(1, out.shape[1] - scores.shape[1] + 1, device=out.device, dtype=out.dtype)
        floor = scores.amin(dim=1, keepdim=True)
        out.scatter_(1, candidates.order[:, scores.shape[1] :], floor - below)
    return out.scatter_(1, candidates.index, scores)


def prepare(similarity: Tensor | np.ndarray, k: int, **options: tuple[object, tuple]) -> Tensor:
    """Check the input of a re-ranker; the matrix comes back as a tensor of float32 or wider.

    Raises:
        ValueError: for a matrix that is not 2-d, is empty or holds NaN or infinity, k below 1, or an unknown option.
    """
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f'{name} is {value!r}, expected one of {known}')
    similarity = torch.as_tensor(similarity)
    if similarity.ndim != 2 or not similarity.numel():
        raise ValueError(f'expected a similarity matrix (queries, gallery), got shape {tuple(similarity.shape)}')
    if k < 1:
        raise ValueError(f'k is {k}, expected 1 or more')
    check_finite(similarity)
    return similarity.to(torch.promote_types(similarity.dtype, torch.float32))


def multivariate_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    weights: tuple[float, float, float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: str = 'ordinal',
    reverse_top: int | None = None,
    significance: str = 'ratio',
    tail: str = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Multivariate rerank (MR) of GaLR, Sec. III-F; the formula is at the top of this module.

    Args:
        similarity: (Q, N), rows are queries; float16 to float64, tensor or array.
        k: candidates of each query, at most the gallery's size.
        weights: of significance, forward and reverse term.
        decay: lambda.
        reverse: 'ordinal' (released) or 'absolute' (the paper's figure).
        reverse_top: the reverse term is 0 where the query is not among so many first of the candidate's list.
        significance: 'ratio', 'softmax' or 'off'.
        tail: 'keep' leaves the order beyond the top k as it was, below all candidates; 'zero' is the released one.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.

    Returns:
        Scores (Q, N) in float32 or wider.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where), k below 1 or an unknown option.
    """
    similarity = prepare(
        similarity, k, reverse=(reverse, REVERSES), significance=(significance, SIGNIFICANCES), tail=(tail, TAILS)
    )
    if reverse_similarity is not None:
        reverse_similarity = prepare(reverse_similarity, k)
    candidates = find_candidates(similarity, k, reverse_similarity)
    dtype = similarity.dtype
    forward = torch.arange(1, candidates.similarity.shape[1] + 1, device=similarity.device, dtype=dtype)
    backward = (-decay * (reverse_order(candidates, reverse) + 1).to(dtype)).exp()
    if reverse_top is not None:
        backward = backward * (candidates.reverse < reverse_top)
    w_s, w_f, w_r = weights
    scores = w_f * (-decay * forward).exp() + w_r * backward
    if w_s:
        scores = scores + w_s * significance_term(similarity, candidates, significance)
    return place_scores(candidates, scores, tail)


def reverse_rank_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    decay: float = 0.05,
    tail: str = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Order the k best by the query's position in their own lists only (MTFN-RR, Wang et al., 2019).

    Arguments and result as for :func:`multivariate_rerank`.
    """
    return multivariate_rerank(
        similarity, k, (0.0, 0.0, 1.0), decay, significance='off', tail=tail, reverse_similarity=reverse_similarity
    )


def product_rerank(
    similarity: Tensor | np.ndarray,
    k: int = 30,
    decay: float = 0.05,
    reverse: str = 'ordinal',
    tail: str = 'keep',
    reverse_similarity: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Similarity times forward and reverse term for the k best.

    A row's similarities are shifted to be positive first where one is not, since a product of signs has no order.
    Arguments and result as for :func:`multivariate_rerank`.
    """
    similarity = prepare(similarity, k, reverse=(reverse, REVERSES), tail=(tail, TAILS))
    if reverse_similarity is not None:
        reverse_similarity = prepare(reverse_similarity, k)
    candidates = find_candidates(similarity, k, reverse_similarity)
    forward = torch.arange(1, candidates.similarity.shape[1] + 1, device=similarity.device, dtype=similarity.dtype)
    lowest = candidates.similarity.amin(dim=1, keepdim=True)
    positive = candidates.similarity + torch.where(lowest > 0, torch.zeros_like(lowest), 1e-6 - lowest)
    backward = (reverse_order(candidates, reverse) + 1).to(similarity.dtype)
    return place_scores(candidates, positive * (-decay * (forward + backward)).exp(), tail)
