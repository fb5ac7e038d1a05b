from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.models.losses.pairs import duplicate_pairs, own_pairs, owner_of_each
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
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # as cross_entropy does under autocast
    owner = owner_of_each(owner, logits, logits.t())
    skip = own_pairs(owner, len(logits))
    own = logits[owner, torch.arange(len(owner), device=owner.device)]
    negatives = logits.masked_fill(skip if ignore is None else skip | ignore, torch.finfo(logits.dtype).min)
    images = F.softplus(negatives.logsumexp(0) - own)  # -log(e^own / (e^own + sum of e^negatives))
    captions = F.softplus(negatives.logsumexp(1)[owner] - own)
    return (images.mean() + captions.mean()) / 2


@MODELS.register_module()
class ContrastiveLoss(nn.Module):
    """Contrastive loss (InfoNCE, as in CLIP) with a learned temperature, :func:`contrastive_loss` of the cosines.

    Args:
        temperature: the start value of tau.
        max_scale: upper bound of 1 / temperature; the lower one is 1.
        mask_duplicates: leave pairs of the same image or of equal captions out of the negatives,
            :func:`duplicate_pairs`. Captions that came with one row never are negatives of it.

    Shapes:
        - image_feat: (B, D), L2-normalized
        - text_feat: (T, D), L2-normalized
        - image_ids: int64 (B,), equal for equal images
        - caption_ids: int64 (T,), equal for equal captions
        - owner: int64 (T,), row of the image that each caption came with; left out, caption i came with image i
        - output: dict of scalars ``loss_contrastive`` and ``temperature``

    Raises:
        ValueError: when T is not B and there is no ``owner``.

    Example:
        >>> import torch
        >>> pairs, ids = torch.eye(4), torch.arange(4)
        >>> round(ContrastiveLoss(temperature=0.5)(pairs, pairs, ids, ids)['loss_contrastive'].item(), 4)
        0.3408
    """

    def __init__(self, temperature: float = 0.07, max_scale: float = 100.0, mask_duplicates: bool = True) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.max_scale = max_scale
        self.mask_duplicates = mask_duplicates

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
        ignore = duplicate_pairs(image_ids, caption_ids, owner) if self.mask_duplicates else None
        loss = contrastive_loss(scale * image_feat @ text_feat.t(), ignore, owner)
        return {'loss_contrastive': loss, 'temperature': 1 / scale.detach()}
