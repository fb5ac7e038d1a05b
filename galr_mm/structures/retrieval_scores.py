from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RetrievalScores:
    """Similarities of a whole split in both directions, with the positives.

    ``t2i`` is not assumed to be the transpose of ``i2t``: a retriever with a pairwise second stage scores each
    direction on its own candidates.

    Shapes:
        - i2t: (I, T), rows are image queries
        - t2i: (T, I), rows are caption queries
        - positives: bool (I, T), true where caption t describes image i

    ``filler`` is the value, below all others, of pairs that were not scored; None where all were.
    """

    i2t: Tensor
    t2i: Tensor
    positives: Tensor
    filler: float | None = None

    def __post_init__(self) -> None:
        if self.i2t.ndim != 2 or self.t2i.shape != self.i2t.shape[::-1] or self.positives.shape != self.i2t.shape:
            raise ValueError(
                'expected i2t (I, T), t2i (T, I) and positives (I, T), got '
                f'{tuple(self.i2t.shape)}, {tuple(self.t2i.shape)} and {tuple(self.positives.shape)}'
            )

    @classmethod
    def from_features(cls, image_feat: Tensor, text_feat: Tensor, positives: Tensor) -> RetrievalScores:
        """Cosine similarities of L2-normalized features (I, D) and (T, D)."""
        i2t = image_feat @ text_feat.t()
        return cls(i2t, i2t.t(), positives)

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
