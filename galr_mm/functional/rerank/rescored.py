"""What every re-ranker here does: find candidates and score them by its formula; a matrix only where asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, as_positives, as_ranks, as_tensor
from galr_mm.functional.rerank.candidates import Candidates, find_candidates
from galr_mm.functional.rerank.checks import prepare
from galr_mm.functional.rerank.order_preserving_shift import scatter_scores


@dataclass(frozen=True)
class Rescored:
    """A similarity matrix whose candidates have new scores: the re-ranked matrix before it is written out.

    Shapes:
        - similarity: (Q, N), the raw matrix; it is not copied
        - candidates: k of each query
        - below: (Q,), the best similarity of what is not a candidate
        - scores: float64 (Q, k)
        - tail: 'keep' or 'zero', see :func:`~galr_mm.functional.scatter_scores`

    Example:
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> rescored = rescore(similarity, 2, lambda candidates: -candidates.similarity)
        >>> rescored.rows(slice(0, 1)).equal(rescored.matrix()[:1])
        True
    """

    similarity: Tensor
    candidates: Candidates
    below: Tensor
    scores: Tensor
    tail: str = 'keep'

    def matrix(self) -> Tensor:
        """The re-ranked matrix (Q, N), float32 or wider."""
        return scatter_scores(self.similarity, self.candidates, self.below, self.scores, self.tail)

    def rows(self, queries: Tensor | slice) -> Tensor:
        """Rows of the re-ranked matrix (n, N), without the others."""
        return Rescored(
            self.similarity[queries],
            self.candidates[queries],
            self.below[queries],
            self.scores[queries],
            self.tail,
        ).matrix()

    def ranks(self, positives: Array, raw_ranks: Array) -> Tensor:
        """Ranks in the re-ranked matrix, int64 (Q,), without it: :func:`~galr_mm.functional.reranked_ranks`."""
        return reranked_ranks(self.candidates, self.scores, positives, raw_ranks, self.tail)


def rescore(
    similarity: Array,
    k: int,
    formula: Callable[[Candidates], Tensor],
    significance: str = 'ratio',
    tail: str = 'keep',
    reverse_similarity: Array | None = None,
    filler: float | None = None,
) -> Rescored:
    """Find the candidates of a matrix (Q, N) and give them the scores of a formula.

    Args:
        similarity: (Q, N), rows are queries.
        k: candidates of each query.
        formula: gives scores (Q, k) of candidates, such as :func:`~galr_mm.functional.multivariate_scores`.
        significance: 'ratio', 'softmax' or 'off'.
        tail: 'keep' or 'zero'.
        reverse_similarity: (N, Q), the other direction where it is not the transpose.
        filler: value of pairs that were not scored.

    Raises:
        ValueError: for matrices that cannot be re-ranked, or such a filler; other options are not checked here.

    Example:
        >>> rescored = rescore(torch.tensor([[0.5, 0.75, 0.25]]), 2, lambda candidates: -candidates.similarity)
        >>> rescored.matrix().argsort(descending=True)
        tensor([[0, 1, 2]])
    """
    candidates, below = find_candidates(similarity, k, reverse_similarity, significance, filler)
    return Rescored(prepare(similarity), candidates, below, formula(candidates), tail)


def reranked_ranks(
    candidates: Candidates, scores: Array, positives: Array, raw_ranks: Array, tail: str = 'keep'
) -> Tensor:
    """0-based rank of each query's best positive once its candidates are ordered by new scores.

    They are the ranks that :func:`~galr_mm.functional.retrieval_ranks` finds in the re-ranked matrix, ties included.

    Args:
        candidates: k of each of Q queries.
        scores: (Q, k), the candidates' new scores.
        positives: bool (Q, N).
        raw_ranks: int64 (Q,), from :func:`~galr_mm.functional.retrieval_ranks`. With ``tail='keep'`` a query without a
            positive among its candidates keeps this rank.
        tail: 'keep' where everything else stays below the candidates in its old order; 'zero' where it has the score 0,
            all of it tied.

    Returns:
        int64 (Q,), -1 for queries without any positive.

    Raises:
        ValueError: for positives that are not true or false, or ranks that are not whole numbers.

    Example:
        >>> from galr_mm.functional import find_candidates, multivariate_scores, retrieval_ranks
        >>> similarity = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
        >>> positives = torch.tensor([[True, False, False], [False, True, False]])
        >>> raw = retrieval_ranks(similarity, positives)
        >>> candidates, _ = find_candidates(similarity, k=2)
        >>> raw, reranked_ranks(candidates, multivariate_scores(candidates), positives, raw)
        (tensor([1, 0]), tensor([0, 0]))
    """
    index = candidates.index
    positives = as_positives(positives).to(index.device)
    scores, raw_ranks = as_tensor(scores, 'scores').to(index.device), as_ranks(raw_ranks).to(index.device)
    scores = scores.to(candidates.similarity.dtype)  # as the matrix would hold them: rounding makes ties
    positive = positives.gather(1, index)
    beyond = positives.shape[1]
    if tail == 'keep':
        if candidates.valid is not None:  # the others stay with the rest, below those that were scored
            positive = positive & candidates.valid
            scores = scores.masked_fill(~candidates.valid, -torch.inf)
        best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
        first = torch.where(positive & (scores == best), index, beyond).amin(dim=1, keepdim=True)
        before = (scores > best) | ((scores == best) & (index < first))
        return torch.where(positive.any(dim=1), before.sum(dim=1), raw_ranks)
    if candidates.valid is not None:
        scores = scores.masked_fill(~candidates.valid, 0)
    outside = positives.scatter(1, index, False)  # positives that are not candidates score 0
    first_outside = torch.where(outside.any(dim=1), outside.to(torch.uint8).argmax(dim=1), beyond)[:, None]
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    best = torch.where(first_outside < beyond, best.clamp(min=0), best)
    first = torch.where(positive & (scores == best), index, beyond).amin(dim=1, keepdim=True)
    first = torch.where(best == 0, torch.minimum(first, first_outside), first)
    before = ((scores > best) | ((scores == best) & (index < first))).sum(dim=1, keepdim=True)
    zeros_before = first - (index < first).sum(dim=1, keepdim=True)  # of equal score 0 and lower index
    zeros_above = beyond - index.shape[1]
    before = before + torch.where(best == 0, zeros_before, torch.where(best < 0, zeros_above, 0))
    return torch.where(raw_ranks < 0, raw_ranks, before.squeeze(1))
