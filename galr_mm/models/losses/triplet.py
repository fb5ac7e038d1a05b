from __future__ import annotations

import torch
from torch import Tensor, nn

from galr_mm.models.losses.pairs import duplicate_pairs, own_pairs, owner_of_each
from galr_mm.registry import MODELS

NEGATIVES = ('all', 'hardest')


def triplet_loss(
    similarity: Tensor,
    margin: float = 0.2,
    negatives: str = 'all',
    ignore: Tensor | None = None,
    owner: Tensor | None = None,
) -> Tensor:
    r"""Bidirectional triplet loss of a batch, summed over its captions (GaLR Sec. III-E).

    Caption c came with image o(c); N(c) are the images it does not describe, M(o(c)) the captions that do not describe
    its image.

    .. math::
        L = \sum_c \Bigl( \sum_{d \in M(o(c))} [m + s_{o(c)d} - s_{o(c)c}]_+
            + \sum_{i \in N(c)} [m + s_{ic} - s_{o(c)c}]_+ \Bigr)

    'hardest' keeps the largest term of each inner sum only. With one caption an image both sums are over a row and a
    column, as in the paper.

    Shapes:
        - similarity: (B, T), images x captions
        - ignore: bool (B, T), pairs that are not negatives, besides an image and its own captions
        - owner: int64 (T,), row of the image that each caption came with; by default the diagonal
        - output: scalar

    Example:
        >>> round(triplet_loss(torch.tensor([[0.9, 0.8], [0.1, 0.7]]), margin=0.2).item(), 4)
        0.4
    """
    owner = owner_of_each(owner, similarity, similarity.t())
    own = similarity[owner, torch.arange(len(owner), device=owner.device)]
    skip = own_pairs(owner, len(similarity))
    if ignore is not None:
        skip = skip | ignore
    text_cost = (margin + similarity[owner] - own[:, None]).clamp(min=0).masked_fill(skip[owner], 0)  # (T, T)
    image_cost = (margin + similarity - own).clamp(min=0).masked_fill(skip, 0)  # (B, T)
    if negatives == 'hardest':
        return text_cost.amax(1).sum() + image_cost.amax(0).sum()
    return text_cost.sum() + image_cost.sum()


@MODELS.register_module()
class TripletLoss(nn.Module):
    """Bidirectional triplet loss over the batch, :func:`triplet_loss` of the cosines.

    Args:
        margin: by how much a match must beat a negative.
        negatives: 'all' violating ones, or the 'hardest' of each caption in both directions.
        mask_duplicates: do not count pairs of the same image or of equal captions as negatives,
            :func:`duplicate_pairs`; the released code did. Captions that came with one row never are negatives of it.

    Shapes:
        - image_feat: (B, D), L2-normalized
        - text_feat: (T, D), L2-normalized
        - image_ids: int64 (B,), equal for equal images
        - caption_ids: int64 (T,), equal for equal captions
        - owner: int64 (T,), row of the image that each caption came with; left out, caption i came with image i
        - output: dict of the scalar ``loss_triplet``

    Raises:
        ValueError: for unknown ``negatives``, or when T is not B and there is no ``owner``.

    Example:
        >>> pairs, ids = torch.eye(4), torch.arange(4)
        >>> TripletLoss(margin=0.2)(pairs, pairs, ids, ids)['loss_triplet'].item()
        0.0
    """

    def __init__(self, margin: float = 0.2, negatives: str = 'all', mask_duplicates: bool = True) -> None:
        super().__init__()
        if negatives not in NEGATIVES:
            raise ValueError(f'negatives is {negatives!r}, expected one of {NEGATIVES}')
        self.margin = margin
        self.negatives = negatives
        self.mask_duplicates = mask_duplicates

    def forward(
        self,
        image_feat: Tensor,
        text_feat: Tensor,
        image_ids: Tensor,
        caption_ids: Tensor,
        owner: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch of images with their captions."""
        ignore = duplicate_pairs(image_ids, caption_ids, owner) if self.mask_duplicates else None
        loss = triplet_loss(image_feat @ text_feat.t(), self.margin, self.negatives, ignore, owner)
        return {'loss_triplet': loss}
