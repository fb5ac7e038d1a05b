from __future__ import annotations

from torch import Tensor, nn

from galr_mm.functional.checks import check_switch, is_finite
from galr_mm.messages import shorten
from galr_mm.models.losses.pairs import PairScores
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
        >>> import torch
        >>> round(triplet_loss(torch.tensor([[0.9, 0.8], [0.1, 0.7]]), margin=0.2).item(), 4)
        0.4
    """
    return _triplet(PairScores.of_similarity(similarity, ignore, owner), margin, negatives)


def _triplet(scores: PairScores, margin: float, negatives: str) -> Tensor:
    """:func:`triplet_loss`; over processes, this one's part, whose mean over processes is the whole."""
    others = scores.images, scores.captions[scores.rows]  # (T, B'), (T, T')
    skip = scores.skip_images, scores.skip_captions[scores.rows]
    costs = [
        (margin + s - scores.own[:, None]).clamp(min=0).masked_fill(m, 0) for s, m in zip(others, skip, strict=True)
    ]
    if negatives == 'hardest':
        costs = [cost.amax(1) for cost in costs]
    return (costs[0].sum() + costs[1].sum()) * scores.processes


@MODELS.register_module()
class TripletLoss(nn.Module):
    """Bidirectional triplet loss over the batch, :func:`triplet_loss` of the cosines.

    Args:
        margin: by how much a match must beat a negative.
        negatives: 'all' violating ones, or the 'hardest' of each caption in both directions.
        mask_duplicates: do not count pairs of the same image or of equal captions as negatives,
            :func:`duplicate_pairs`; the released code did. Captions that came with one row never are negatives of it.
        gather: compare with the images and captions of all processes, see :class:`ContrastiveLoss`. Each process then
            gives its own terms times the number of processes, so that their mean is the sum over all.

    Shapes:
        - image_feat: (B, D), L2-normalized
        - text_feat: (T, D), L2-normalized
        - image_ids: int64 (B,), equal for equal images
        - caption_ids: int64 (T,), equal for equal captions
        - owner: int64 (T,), row of the image that each caption came with; left out, caption i came with image i
        - output: dict of the scalar ``loss_triplet``

    Raises:
        ValueError: for a margin that is negative or not finite, unknown ``negatives``, or when T is not B and
            there is no ``owner``.

    Example:
        >>> import torch
        >>> pairs, ids = torch.eye(4), torch.arange(4)
        >>> TripletLoss(margin=0.2)(pairs, pairs, ids, ids)['loss_triplet'].item()
        0.0
    """

    def __init__(
        self, margin: float = 0.2, negatives: str = 'all', mask_duplicates: bool = True, gather: bool = False
    ) -> None:
        super().__init__()
        if negatives not in NEGATIVES:
            raise ValueError(f'negatives is {negatives!r}, expected one of {NEGATIVES}')
        if not is_finite(margin) or margin < 0:
            raise ValueError(f'margin is {shorten(margin)}, expected a finite number of 0 or more')
        self.margin = margin
        self.negatives = negatives
        self.mask_duplicates = mask_duplicates
        self.gather = check_switch('gather', gather)

    def forward(
        self,
        image_feat: Tensor,
        text_feat: Tensor,
        image_ids: Tensor,
        caption_ids: Tensor,
        owner: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch of images with their captions."""
        scores = PairScores.of_features(
            image_feat,
            text_feat,
            image_ids,
            caption_ids,
            owner,
            mask_duplicates=self.mask_duplicates,
            gather=self.gather,
        )
        return {'loss_triplet': _triplet(scores, self.margin, self.negatives)}
