from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.models.losses.triplet import duplicate_pairs
from galr_mm.registry import MODELS


@MODELS.register_module()
class ContrastiveLoss(nn.Module):
    r"""Symmetric softmax cross entropy over the batch with a learned temperature (InfoNCE, as in CLIP).

    .. math::
        L = -\frac{1}{2B} \sum_i \left( \log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}
            + \log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ji} / \tau}} \right)

    Args:
        temperature: the start value of tau.
        max_scale: upper bound of 1 / temperature; the lower one is 1.
        mask_duplicates: leave pairs of the same image or of equal captions out of the negatives.

    Shapes:
        - image_feat, text_feat: (B, D), L2-normalized
        - image_ids, caption_ids: int64 (B,)
        - output: dict of scalars ``loss_contrastive`` and ``temperature``

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
        self, image_feat: Tensor, text_feat: Tensor, image_ids: Tensor, caption_ids: Tensor
    ) -> dict[str, Tensor]:
        """Loss of a batch of matching pairs, and the temperature in use."""
        with torch.no_grad():  # as CLIP does: the parameter itself is kept in range, so its gradient never dies
            self.log_scale.clamp_(0, math.log(self.max_scale))
        scale = self.log_scale.exp()
        logits = scale * image_feat @ text_feat.t()
        if self.mask_duplicates:
            logits = logits.masked_fill(duplicate_pairs(image_ids, caption_ids), torch.finfo(logits.dtype).min)
        target = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
        return {'loss_contrastive': loss, 'temperature': 1 / scale.detach()}
