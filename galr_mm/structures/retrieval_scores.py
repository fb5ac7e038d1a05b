from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from galr_mm.functional import Rescored, retrieval_ranks

Direction = Literal['i2t', 't2i']


@dataclass(frozen=True)
class QueryBank:
    """Features of training images and captions, which stand in for the queries of a test.

    Shapes:
        - image_feat: (P, D), L2-normalized
        - text_feat: (R, D), L2-normalized
    """

    image_feat: Tensor
    text_feat: Tensor


@dataclass(frozen=True)
class RetrievalScores:
    """Similarities of a whole split in both directions, with the positives.

    ``t2i`` is not assumed to be the transpose of ``i2t``: a retriever with a pairwise second stage scores each
    direction on its own candidates.

    Shapes:
        - i2t: (I, T), rows are image queries
        - t2i: (T, I), rows are caption queries
        - positives: bool (I, T), true where caption t describes image i

    ``filler`` is the value, below all others, of pairs that were not scored; None where all were. ``bank_i2t`` (P, T)
    and ``bank_t2i`` (R, I) are similarities of training images and captions to the galleries, where a re-ranker wants
    them.

    Example:
        >>> scores = RetrievalScores.from_matrix(torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.8, 0.3, 0.4, 0.7]]), 2)
        >>> scores.ranks
        {'i2t': tensor([0, 1]), 't2i': tensor([0, 0, 0, 0])}
    """

    i2t: Tensor
    t2i: Tensor
    positives: Tensor
    filler: float | None = None
    bank_i2t: Tensor | None = None
    bank_t2i: Tensor | None = None

    def __post_init__(self) -> None:
        if self.i2t.ndim != 2 or self.t2i.shape != self.i2t.shape[::-1] or self.positives.shape != self.i2t.shape:
            raise ValueError(
                'expected i2t (I, T), t2i (T, I) and positives (I, T), got '
                f'{tuple(self.i2t.shape)}, {tuple(self.t2i.shape)} and {tuple(self.positives.shape)}'
            )
        for name in ('i2t', 't2i'):
            bank, own = getattr(self, f'bank_{name}'), getattr(self, name)
            if bank is not None and (bank.ndim != 2 or bank.shape[1] != own.shape[1]):
                raise ValueError(
                    f'expected bank_{name} (queries, {own.shape[1]}) beside {name} {tuple(own.shape)}, got '
                    f'{tuple(bank.shape)}'
                )

    @cached_property
    def ranks(self) -> dict[str, Tensor]:
        """0-based ranks of the best positive, 'i2t' (I,) and 't2i' (T,), -1 for queries without one."""
        return dict(
            i2t=retrieval_ranks(self.i2t, self.positives),
            t2i=retrieval_ranks(self.t2i, self.positives.t()),
        )

    def rows(self, direction: Direction, queries: Tensor) -> Tensor:
        """Scores of some queries (n, N) against the whole gallery."""
        return getattr(self, direction)[queries]

    def matrices(self) -> RetrievalScores:
        """These scores; those of :class:`RerankedScores` are made when asked for."""
        return self

    @classmethod
    def from_features(
        cls, image_feat: Tensor, text_feat: Tensor, positives: Tensor, bank: QueryBank | None = None
    ) -> RetrievalScores:
        """Cosine similarities of L2-normalized features (I, D) and (T, D), and those of a bank to both galleries."""
        i2t = image_feat @ text_feat.t()
        if bank is None:
            return cls(i2t, i2t.t(), positives)
        return cls(
            i2t,
            i2t.t(),
            positives,
            bank_i2t=bank.image_feat @ text_feat.t(),
            bank_t2i=bank.text_feat @ image_feat.t(),
        )

    @classmethod
    def from_matrix(cls, i2t: Tensor, captions_per_image: int = 5) -> RetrievalScores:
        """A matrix (I, I * n) whose captions ``n * i`` to ``n * i + n - 1`` describe image ``i``."""
        images, texts = i2t.shape
        if captions_per_image < 1:
            raise ValueError(f'captions_per_image is {captions_per_image}, expected 1 or more')
        if texts != images * captions_per_image:
            raise ValueError(
                f'{images} images with {captions_per_image} captions each need '
                f'{images * captions_per_image} columns, got {texts}'
            )
        owner = torch.arange(texts, device=i2t.device) // captions_per_image
        return cls(i2t, i2t.t(), owner[None] == torch.arange(images, device=i2t.device)[:, None])


@dataclass(frozen=True)
class RerankedScores:
    """Scores of a whole split after re-ranking, as candidates with new scores; matrices are made when asked for.

    Args:
        raw: the scores that were re-ranked.
        i2t: the re-ranked candidates of the image queries.
        t2i: those of the caption queries.
    """

    raw: RetrievalScores
    i2t: Rescored
    t2i: Rescored

    @cached_property
    def ranks(self) -> dict[str, Tensor]:
        """Ranks as in :attr:`RetrievalScores.ranks`, equal to those of the re-ranked matrices, without them."""
        raw, positives = self.raw.ranks, self.raw.positives
        return dict(
            i2t=self.i2t.ranks(positives, raw['i2t']),
            t2i=self.t2i.ranks(positives.t(), raw['t2i']),
        )

    def rows(self, direction: Direction, queries: Tensor) -> Tensor:
        """Re-ranked scores of some queries (n, N) against the whole gallery."""
        return getattr(self, direction).rows(queries)

    def matrices(self) -> RetrievalScores:
        """The re-ranked matrices, with the positives of the raw scores."""
        return RetrievalScores(self.i2t.matrix(), self.t2i.matrix(), self.raw.positives, self.raw.filler)
