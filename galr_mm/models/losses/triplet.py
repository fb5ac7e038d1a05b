from __future__ import annotations

import torch
from torch import Tensor, nn

from galr_mm.registry import MODELS

NEGATIVES = ('all', 'hardest')


def duplicate_pairs(image_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """Pairs off the diagonal that are not negatives: the same image, or a caption of the same words.

    Shapes:
        - image_ids, caption_ids: int64 (B,)
        - output: bool (B, B)

    Example:
        >>> duplicate_pairs(torch.tensor([0, 1, 0]), torch.tensor([5, 6, 7])).nonzero().tolist()
        [[0, 2], [2, 0]]
    """
    same = (image_ids[:, None] == image_ids) | (caption_ids[:, None] == caption_ids)
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def triplet_loss(
    similarity: Tensor, margin: float = 0.2, negatives: str = 'all', ignore: Tensor | None = None
) -> Tensor:
    r"""Bidirectional triplet loss of a batch, summed (GaLR Sec. III-E).

    .. math::
        L = \sum_{i \neq j} [m + s_{ij} - s_{ii}]_+ + [m + s_{ij} - s_{jj}]_+

    'hardest' keeps the largest term of each row and of each column only.

    Shapes:
        - similarity: (B, B), images x captions, matching pairs on the diagonal
        - ignore: bool (B, B), pairs that are not negatives
        - output: scalar

    Example:
        >>> round(triplet_loss(torch.tensor([[0.9, 0.8], [0.1, 0.7]]), margin=0.2).item(), 4)
        0.4
    """
    own = similarity.diagonal()
    skip = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    if ignore is not None:
        skip = skip | ignore
    text_cost = (margin + similarity - own[:, None]).clamp(min=0).masked_fill(skip, 0)
    image_cost = (margin + similarity - own[None, :]).clamp(min=0).masked_fill(skip, 0)
    if negatives == 'hardest':
        return text_cost.amax(1).sum() + image_cost.amax(0).sum()
    return text_cost.sum() + image_cost.sum()


@MODELS.register_module()
class TripletLoss(nn.Module):
    """Bidirectional triplet loss over the batch, :func:`triplet_loss` of the cosines.

    Args:
        margin: by how much a match must beat a negative.
        negatives: 'all' violating ones, or the 'hardest' of each row and column.
        mask_duplicates: do not count pairs of the same image or of equal captions as negatives; the released code
            did.

    Shapes:
        - image_feat, text_feat: (B, D), L2-normalized
        - image_ids, caption_ids: int64 (B,)
        - output: dict of the scalar ``loss_triplet``

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
        self, image_feat: Tensor, text_feat: Tensor, image_ids: Tensor, caption_ids: Tensor
    ) -> dict[str, Tensor]:
        """Loss of a batch of matching pairs."""
        ignore = duplicate_pairs(image_ids, caption_ids) if self.mask_duplicates else None
        return {'loss_triplet': triplet_loss(image_feat @ text_feat.t(), self.margin, self.negatives, ignore)}
