from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.integrations.open_clip import load_clip
from galr_mm.models.visual.mvsa import VisualFeatures
from galr_mm.registry import MODELS
from galr_mm.utils.precision import autocast


class ClipMaps(tuple):
    """Feature maps (B, C_i, H_i, W_i) of a CLIP's image tower, with its own ``embedding`` (B, D) of the image."""

    embedding: Tensor

    def __new__(cls, maps: Sequence[Tensor], embedding: Tensor) -> ClipMaps:
        """Make a tuple of maps that carries an embedding."""
        self = super().__new__(cls, maps)
        self.embedding = embedding
        return self


@MODELS.register_module()
class OpenCLIPBackbone(BaseModule):
    """The image tower of an OpenCLIP model, as a backbone of feature maps that also has CLIP's own embedding.

    :class:`galr_mm.MVSA` and the local branch work on the maps, :class:`galr_mm.CLIPEmbedding` takes the embedding. The
    weights are loaded here, not by ``init_cfg``. ``data_preprocessor`` is the config of the one that normalizes
    images as this CLIP wants them; retrievers take it by themselves.

    Args:
        model_name: of open_clip, a .json file, ``local-dir:...`` or ``hf-hub:...``; see
            ``galr_mm/integrations/open_clip.py``.
        pretrained: a tag of open_clip or a file; None starts from random weights.
        out_indices: which blocks of a transformer, or stages of a convolutional net (0 is the stem), give maps. By
            default four evenly spaced blocks, or the last four stages. () gives the embedding only.
        lock: freeze the tower (LiT) but for the last ``unlocked_groups`` layer groups; a fully locked one stays in
            evaluation. As in open_clip, what a timm trunk's ``head`` projects with is not locked.
        unlocked_groups: how many groups at the end stay trainable; not for OpenCLIP's own ResNets.
        grad_checkpointing: compute activations anew in the backward pass, for less memory.
        precision: 'fp32', or 'amp_bf16' (autocast to bfloat16; the outputs are float32).
        clip: an open_clip model that is loaded already, instead of ``model_name``.

    Shapes:
        - input: (B, 3, S, S), normalized, S = ``image_size``
        - output: :class:`ClipMaps` of maps (B, C_i, H_i, W_i), embedding (B, embed_dim), not normalized

    Raises:
        FileNotFoundError: when weights are not to be had.
        ValueError: when an option is unknown or the images are of another size.
    """

    def __init__(
        self,
        model_name: str | None = None,
        pretrained: str | None = None,
        out_indices: Sequence[int] | None = None,
        lock: bool = False,
        unlocked_groups: int = 0,
        grad_checkpointing: bool = False,
        precision: str = 'fp32',
        clip: nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        autocast(precision, torch.device('cpu'))  # refuse a wrong name before the weights are loaded
        if unlocked_groups < 0 or (unlocked_groups and not lock):
            raise ValueError(
                f'unlocked_groups={unlocked_groups} is how many groups a locked tower leaves free; set lock=True'
            )
        if clip is None:
            if model_name is None:
                raise ValueError('model_name is missing, e.g. ViT-B-32')
            clip = load_clip(model_name, pretrained)
        self.tower = clip.visual
        size = self.tower.image_size
        self.image_size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        self.precision = precision
        self.locked = lock and not unlocked_groups
        if lock:
            self._lock(unlocked_groups)
        if grad_checkpointing:
            self.tower.set_grad_checkpointing(True)
        depth = _depth(self.tower)
        if out_indices is None:
            step = depth / 4
            # a convolutional net has few stages, of which the last four are the ones of other backbones
            out_indices = (
                range(max(0, depth - 4), depth) if depth <= 8 else (round(step * (i + 1)) - 1 for i in range(4))
            )
        self.out_indices = tuple(out_indices)
        if any(not 0 <= i < depth for i in self.out_indices) or sorted(set(self.out_indices)) != list(self.out_indices):
            raise ValueError(
                f'out_indices are {self.out_indices}, but the tower has {depth} blocks, from 0, in that order'
            )
        mean, std = self.tower.preprocess_cfg['mean'], self.tower.preprocess_cfg['std']
        self.data_preprocessor = dict(
            type='mmpretrain.MultiModalDataPreprocessor',
            mean=[255 * value for value in mean],
            std=[255 * value for value in std],
            to_rgb=True,
        )
        self.train()

    def _lock(self, unlocked_groups: int) -> None:
        try:
            self.tower.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=True)
        except AssertionError as error:
            raise ValueError(
                f'unlocked_groups is {unlocked_groups}, but a {type(self.tower).__name__} is locked as a whole or not '
                'at all'
            ) from error

    def train(self, mode: bool = True) -> OpenCLIPBackbone:
        """Switch to training; a fully locked tower stays in evaluation."""
        super().train(mode)
        if self.locked:
            self.tower.eval()
        return self

    def init_weights(self) -> None:
        """Leave the weights alone: they were loaded when the tower was built."""

    def forward(self, images: Tensor) -> ClipMaps:
        """Encode images."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f'this CLIP takes {self.image_size} pixels, got {tuple(images.shape[-2:])}; in the pipeline '
                'dict(type="galr_mm.OpenCLIPPreprocess", model_name=...) makes them so, with the name of the model'
            )
        with autocast(self.precision, images.device):
            if not self.out_indices:
                out = self.tower(images)
                return ClipMaps((), (out[0] if isinstance(out, tuple) else out).float())  # CoCa gives tokens as well
            # all of them: open_clip's ResNets would stop after the last one asked for, before their pooling
            indices = range(_depth(self.tower)) if type(self.tower).__name__ == 'ModifiedResNet' else self.out_indices
            out = self.tower.forward_intermediates(images, indices=list(indices))
        maps = dict(zip(indices, out['image_intermediates'], strict=True))
        return ClipMaps([maps[i].float() for i in self.out_indices], out['image_features'].float())


def _depth(tower: nn.Module) -> int:
    """How many maps a tower can give."""
    if hasattr(tower, 'transformer'):
        return len(tower.transformer.resblocks)
    if hasattr(tower, 'trunk'):
        trunk = tower.trunk
        return len(trunk.blocks) if hasattr(trunk, 'blocks') else len(trunk.feature_info)
    return 5  # OpenCLIP's ResNets: the stem and four stages


@MODELS.register_module()
class CLIPEmbedding(BaseModule):
    """CLIP's own embedding of an image as the global feature, beside the last map as tokens.

    Args:
        in_channels: channels of the backbone's maps; follow from it.
        embed_dim: width of CLIP's embedding; follows from the backbone.

    Shapes:
        - input: :class:`ClipMaps` of an :class:`galr_mm.OpenCLIPBackbone`
        - output: :class:`VisualFeatures`, tokens (B, H * W, in_channels[-1]), or (B, 0, 0) without maps, embedding
          (B, embed_dim)
    """

    def __init__(self, in_channels: Sequence[int] = (), embed_dim: int = 512, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = tuple(in_channels)
        self.token_channels = self.in_channels[-1] if self.in_channels else 0
        self.embed_dim = embed_dim

    def forward(self, maps: ClipMaps) -> VisualFeatures:
        """Take the embedding."""
        if not isinstance(maps, ClipMaps):
            raise TypeError('CLIPEmbedding needs backbone=dict(type="galr_mm.OpenCLIPBackbone", ...)')
        empty = maps.embedding.new_zeros(len(maps.embedding), 0, 0)
        return VisualFeatures(maps[-1].flatten(2).transpose(1, 2) if maps else empty, maps.embedding)
