from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from galr_mm.integrations.open_clip import cut_captions, keep_text_tower, load_clip, load_tokenizer, lock_text_tower
from galr_mm.models.clip.tower import OpenCLIPTower, check_unlocked
from galr_mm.models.text import TokenizedTextEncoder
from galr_mm.registry import MODELS

if TYPE_CHECKING:
    from galr_mm.integrations.open_clip import OpenCLIPModel


@MODELS.register_module()
class OpenCLIPTextEncoder(OpenCLIPTower, TokenizedTextEncoder):
    """The text tower of an OpenCLIP model with its tokenizer. The weights are loaded here, not by ``init_cfg``.

    ``temperature`` is that of the weights, for the loss to start from.

    Args:
        model_name: as of :class:`galr_mm.OpenCLIPBackbone`.
        pretrained: likewise.
        lock: freeze the tower but for the last ``unlocked_layers`` layers; a fully locked one stays in evaluation.
        unlocked_layers: how many layers at the end stay trainable.
        grad_checkpointing: compute activations anew in the backward pass, for less memory.
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
        clip: OpenCLIPModel | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_unlocked(lock, unlocked_layers, 'unlocked_layers')
        self.tokenizer = load_tokenizer(model_name)
        self.filling = int(self.tokenizer([''])[0, -1])  # what stands behind the words
        clip = load_clip(model_name, pretrained) if clip is None else clip
        self.temperature = (1 / clip.logit_scale.exp()).item()
        if lock:
            lock_text_tower(clip, unlocked_layers)
        self.frozen = lock and not unlocked_layers
        if grad_checkpointing:
            clip.set_grad_checkpointing(True)
        self.clip = keep_text_tower(clip)
        self.train()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, int64 (T, context length)."""
        ids = self.tokenizer(list(texts))
        if not self._cut_reported and (ids[:, -2] != self.filling).any():  # hardly any room was left
            self.report_lost(texts)
        return ids

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Captions of more tokens than the model's context."""
        return cut_captions(self.tokenizer, texts)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Features (T, embed_dim), in float32, of token ids (T, context length)."""
        return self.clip.encode_text(ids.to(next(self.clip.parameters()).device)).float()
