from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.functional.checks import check_positive, check_switch
from galr_mm.models.losses.pairs import PairScores
from galr_mm.registry import MODELS


def contrastive_loss(logits: Tensor, ignore: Tensor | None = None, owner: Tensor | None = None) -> Tensor:
    r"""Symmetric softmax cross entropy of a batch, with any count of captions an image.

    Caption c came with image o(c). Against it stand N(c), the images it does not describe, and M(o(c)), the captions
    that do not describe its image; other captions of one image are not in one softmax.

    .. math::
        L = -\frac{1}{2T} \sum_c \left(
            \log \frac{e^{s_{o(c)c}}}{e^{s_{o(c)c}} + \sum_{i \in N(c)} e^{s_{ic}}}
            + \log \frac{e^{s_{o(c)c}}}{e^{s_{o(c)c}} + \sum_{d \in M(o(c))} e^{s_{o(c)d}}} \right)

    With one caption an image this is InfoNCE in both directions.

    Shapes:
        - logits: (B, T), similarity of images x captions over the temperature
        - ignore: bool (B, T), pairs that are not negatives, besides an image and its own captions
        - owner: int64 (T,), row of the image that each caption came with; by default the diagonal
        - output: scalar

    Example:
        >>> round(contrastive_loss(torch.eye(4) / 0.5).item(), 4)
        0.3408
    """
    return _contrastive(PairScores.of_similarity(logits, ignore, owner))


def _contrastive(scores: PairScores) -> Tensor:
    """:func:`contrastive_loss`; over processes, this one's part, whose mean over processes is the whole."""
    images = _log_softmax_of_own(scores.own, scores.images, scores.skip_images)
    captions = _log_softmax_of_own(scores.own, scores.captions, scores.skip_captions, scores.rows)
    fraction = len(scores.own) / scores.captions.shape[1]  # of all captions, those of this process
    return -(images.mean() + captions.mean()) / 2 * (fraction * scores.processes)


def _log_softmax_of_own(own: Tensor, others: Tensor, skip: Tensor, rows: Tensor | None = None) -> Tensor:
    """log(e^own / (e^own + sum of e^others)), (T,); row ``rows[c]`` of ``others`` stands against ``own[c]``."""
    # in single precision under autocast, as cross_entropy is
    others = others.to(torch.promote_types(others.dtype, torch.float32))
    against = others.masked_fill(skip, torch.finfo(others.dtype).min).logsumexp(1)
    return F.logsigmoid(own - (against if rows is None else against[rows]))


@MODELS.register_module()
class ContrastiveLoss(nn.Module):
    """Contrastive loss (InfoNCE, as in CLIP) with a learned temperature, :func:`contrastive_loss` of the cosines.

    Args:
        temperature: the start value of tau.
        max_scale: upper bound of 1 / temperature; the lower one is 1.
        mask_duplicates: leave pairs of the same image or of equal captions out of the negatives,
            :func:`duplicate_pairs`. Captions that came with one row never are negatives of it.
        gather: compare with the images and captions of all processes instead of this one's. Each computes the loss of
            its own queries, and gradients go back to all features, so that under DistributedDataParallel N processes
            with batches of B give the gradients of one process with a batch of N * B (open_clip's ``--local-loss
            --gather-with-grad``), but for BatchNorm and dropout. Ids must mean the same on all processes; those of
            :class:`galr_mm.DualEncoder` do.

    Shapes:
        - image_feat: (B, D), L2-normalized
        - text_feat: (T, D), L2-normalized
        - image_ids: int64 (B,), equal for equal images
        - caption_ids: int64 (T,), equal for equal captions
        - owner: int64 (T,), row of the image that each caption came with; left out, caption i came with image i
        - output: dict of scalars ``loss_contrastive`` and ``temperature``

    Raises:
        ValueError: for a temperature that is not a finite number above 0, a bound below 1, or when T is
            not B and there is no ``owner``.

    Example:
        >>> import torch
        >>> pairs, ids = torch.eye(4), torch.arange(4)
        >>> round(ContrastiveLoss(temperature=0.5)(pairs, pairs, ids, ids)['loss_contrastive'].item(), 4)
        0.3408
    """

    def __init__(
        self, temperature: float = 0.07, max_scale: float = 100.0, mask_duplicates: bool = True, gather: bool = False
    ) -> None:
        super().__init__()
        check_positive('temperature', temperature)
        if not max_scale >= 1:
            raise ValueError(f'max_scale is {max_scale}, expected 1 or more')
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.max_scale = max_scale
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
        """Loss of a batch of images with their captions, and the temperature in use."""
        with torch.no_grad():  # as CLIP does: the parameter itself is kept in range, so its gradient never dies
            self.log_scale.clamp_(0, math.log(self.max_scale))
        scale = self.log_scale.exp()
        scores = PairScores.of_features(
            image_feat, text_feat, image_ids, caption_ids, owner, scale, self.mask_duplicates, self.gather
        )
        return {'loss_contrastive': _contrastive(scores), 'temperature': 1 / scale.detach()}
