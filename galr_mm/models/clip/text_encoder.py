from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.integrations.open_clip import load_clip, load_tokenizer
from galr_mm.registry import MODELS
from galr_mm.utils.precision import autocast


@MODELS.register_module()
class OpenCLIPTextEncoder(BaseModule):
    """The text tower of an OpenCLIP model with its tokenizer. The weights are loaded here, not by ``init_cfg``.

    ``temperature`` is that of the weights, for the loss to start from.

    Args:
        model_name: as of :class:`galr_mm.OpenCLIPBackbone`.
        pretrained: likewise.
        lock: freeze the tower but for the last ``unlocked_layers`` layers; a fully locked one stays in evaluation.
        unlocked_layers: how many layers at the end stay trainable.
        grad_checkpointing: compute activations anew in the backward pass, for less memory.
        precision: 'fp32', or 'amp_bf16' (autocast to bfloat16; the output is float32).
        clip: an open_clip model that is loaded already; its image tower is taken off it.

    Shapes:
        - input: list of T captions, or int64 (T, context length) token ids
        - output: (T, embed_dim), not normalized
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        lock: bool = False,
        unlocked_layers: int = 0,
        grad_checkpointing: bool = False,
        precision: str = 'fp32',
        clip: nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        autocast(precision, torch.device('cpu'))  # refuse a wrong name before the weights are loaded
        if unlocked_layers < 0 or (unlocked_layers and not lock):
            raise ValueError(
                f'unlocked_layers={unlocked_layers} is how many layers a locked tower leaves free; set lock=True'
            )
        self.tokenizer = load_tokenizer(model_name)
        clip = load_clip(model_name, pretrained) if clip is None else clip
        self.temperature = (1 / clip.logit_scale.exp()).item()
        self.precision = precision
        self.locked = lock and not unlocked_layers
        if lock:
            lock_text = getattr(clip, 'lock_text_tower', None) or clip.text.lock  # CoCa lacks the first
            lock_text(unlocked_layers)
        if grad_checkpointing:
            clip.set_grad_checkpointing(True)
        # what has no part in encoding text: the other tower, CoCa's captioning, the scale (it lives in the loss)
        clip.visual = clip.text_decoder = clip.logit_scale = clip.logit_bias = None
        self.clip = clip
        self.train()

    def train(self, mode: bool = True) -> OpenCLIPTextEncoder:
        """Switch to training; a fully locked tower stays in evaluation."""
        super().train(mode)
        if self.locked:
            self.clip.eval()
        return self

    def init_weights(self) -> None:
        """Leave the weights alone: they were loaded when the tower was built."""

    def forward(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Encode captions."""
        ids = texts if isinstance(texts, Tensor) else self.tokenizer(list(texts))
        device = next(self.clip.parameters()).device
        with autocast(self.precision, device):
            return self.clip.encode_text(ids.to(device)).float()
