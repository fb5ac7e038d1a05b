r"""The multivariate rerank (MR) of GaLR, Sec. III-F; rows of a similarity matrix S are queries.

For the k best gallery items c of query q (:math:`r` = 0-based position of c for q) three terms are added:

.. math::
    p_s = \frac{S_{qc}}{\sum_{q'} S_{q'c}}, \quad p_f = e^{-\lambda (r + 1)}, \quad p_r = e^{-\lambda (o + 1)}, \quad
    score = w_s p_s + w_f p_f + w_r p_r

with :math:`o` the 0-based place of c among the k candidates when they are ordered by the position of q in c's own list
of all queries ('ordinal'), or that position itself ('absolute').

Ties: equal similarities are ordered by lower index, equal reverse positions keep the forward order, equal scores are
ordered by lower index. How candidates and positions are found without sorting the matrix is in ``candidates.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array
from galr_mm.functional.rerank.candidates import Candidates
from galr_mm.functional.rerank.checks import check_options
from galr_mm.functional.rerank.rescored import rescore


def multivariate_scores(
    candidates: Candidates,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: str = 'ordinal',
    reverse_top: int | None = None,
) -> Tensor:
    """The formula at the top of this module for the candidates, float64 (Q, k).

    Arguments as for :func:`multivariate_rerank`.

    Example:
        >>> from galr_mm.functional import find_candidates
        >>> candidates, _ = find_candidates(torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]]), k=2)
        >>> multivariate_scores(candidates).shape
        torch.Size([2, 2])
    """
    w_s, w_f, w_r = weights
    forward = torch.arange(candidates.index.shape[1], device=candidates.index.device)
    p_s = candidates.significance
    p_f = (-decay * (forward + 1).double()).exp()
    p_r = (-decay * (reverse_order(candidates, reverse) + 1).double()).exp()
    if reverse_top is not None:
        p_r = p_r * (candidates.reverse < reverse_top)
    return w_s * p_s + w_f * p_f + w_r * p_r


def reverse_order(candidates: Candidates, reverse: str) -> Tensor:
    """Reverse order o of each candidate, int64 (Q, k): its place among the candidates, or its own position."""
    if reverse == 'absolute':
        return candidates.reverse
    order = candidates.reverse.argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def multivariate_rerank(
    similarity: Array,
    k: int = 30,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: Literal['ordinal', 'absolute'] = 'ordinal',
    reverse_top: int | None = None,
    significance: Literal['ratio', 'softmax', 'off'] = 'ratio',
    tail: Literal['keep', 'zero'] = 'keep',
    reverse_similarity: Array | None = None,
    filler: float | None = None,
) -> Tensor:
    """Multivariate rerank (MR) of GaLR, Sec. III-F; the formula is at the top of this module.

    Besides the result it needs a few tiles of 2 MiB (4 in float64) and about 100 bytes for each of the Q k candidates.

    Args:
        similarity: (Q, N), rows are queries; float16 to float64, tensor on any device or array.
        k: candidates of each query, at most the gallery's size.
        weights: of significance, forward and reverse term.
        decay: lambda.
        reverse: 'ordinal' (released) or 'absolute' (the paper's figure).
        reverse_top: the reverse term is 0 where the query is not among the first ``reverse_top`` of the candidate's
            list.
        significance: 'ratio', 'softmax' or 'off'; see
            :func:`~galr_mm.functional.rerank.column_statistics.column_statistic` for sums near zero.
        tail: 'keep' leaves the order beyond the top k as it was, below all candidates; 'zero' is the released one.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.
        filler: value, below all others, of pairs that were not scored (-100 in mmpretrain's two-stage retrievers): they
            are not candidates and do not count in column sums.

    Returns:
        Scores (Q, N) in float32 or wider.

    Raises:
        ValueError: for NaN or infinite similarities (says how many and where the first is), an empty matrix, k below 1,
            or an unknown option.

    Example:
        Item 1 is a hub, the best of both queries; it prefers query 1, so query 0 gets item 0:

        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> multivariate_rerank(similarity, k=2).argsort(dim=1, descending=True)
        tensor([[0, 1, 2],
                [1, 2, 0]])
    """
    check_options(k, weights, decay, reverse, reverse_top, significance, tail)
    formula = partial(multivariate_scores, weights=weights, decay=decay, reverse=reverse, reverse_top=reverse_top)
    significance = significance if weights[0] else 'off'  # nothing would come of it
    return rescore(similarity, k, formula, significance, tail, reverse_similarity, filler).matrix()
