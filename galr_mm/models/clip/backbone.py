from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmengine.model import BaseModule
from torch import Tensor

from galr_mm.integrations.open_clip import count_maps, encode_with_maps, load_clip, lock_image_tower
from galr_mm.models.clip.tower import OpenCLIPTower, check_unlocked
from galr_mm.models.visual import BackboneFeatures, EmbeddingBackbone, VisualFeatures
from galr_mm.registry import MODELS

if TYPE_CHECKING:
    from galr_mm.integrations.open_clip import OpenCLIPModel


@MODELS.register_module()
class OpenCLIPBackbone(OpenCLIPTower, EmbeddingBackbone):
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
        clip: an open_clip model that is loaded already, that of ``model_name``.

    Shapes:
        - input: (B, 3, S, S), normalized, S = ``image_size``
        - output: tuple of maps (B, C_i, H_i, W_i); :meth:`extract_features` gives :class:`BackboneFeatures` with
          embedding (B, embed_dim), not normalized

    Raises:
        FileNotFoundError: when weights are not available.
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
        clip: OpenCLIPModel | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_unlocked(lock, unlocked_groups, 'unlocked_groups')
        if clip is None:
            if model_name is None:
                raise ValueError('model_name is missing, e.g. ViT-B-32')
            clip = load_clip(model_name, pretrained)
        self.tower = clip.visual
        if model_name is not None:
            step = dict(type='galr_mm.OpenCLIPPreprocess', model_name=model_name, pretrained=pretrained)
            self.pipeline = [step, dict(type='galr_mm.PackRetrievalInputs')]
        size = self.tower.image_size
        self.image_size = (size[0], size[1]) if isinstance(size, (tuple, list)) else (size, size)
        if lock:
            lock_image_tower(self.tower, unlocked_groups)
        self.frozen = lock and not unlocked_groups
        if grad_checkpointing:
            self.tower.set_grad_checkpointing(True)
        count = count_maps(self.tower)
        self.out_indices = _evenly_spaced(count) if out_indices is None else tuple(out_indices)
        if any(not 0 <= i < count for i in self.out_indices) or sorted(set(self.out_indices)) != list(self.out_indices):
            raise ValueError(
                f'out_indices are {self.out_indices}, but the tower has {count} blocks, from 0, in that order'
            )
        mean, std = self.tower.preprocess_cfg['mean'], self.tower.preprocess_cfg['std']
        self.data_preprocessor = dict(
            type='mmpretrain.MultiModalDataPreprocessor',
            mean=[255 * value for value in mean],
            std=[255 * value for value in std],
            to_rgb=True,
        )
        self.train()

    def extract_features(self, images: Tensor) -> BackboneFeatures:
        """Maps and embedding, in float32."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f'this CLIP takes {self.image_size} pixels, got {tuple(images.shape[-2:])}; in the pipeline '
                'dict(type="galr_mm.OpenCLIPPreprocess", model_name=...) makes them so, with the name of the model'
            )
        maps, embedding = encode_with_maps(self.tower, images, self.out_indices)
        return BackboneFeatures([m.float() for m in maps], embedding.float())


def _evenly_spaced(count: int) -> tuple[int, ...]:
    """Four of ``count`` blocks; the last four of the few stages of a convolutional net, as of other backbones."""
    if count <= 8:
        return tuple(range(max(0, count - 4), count))
    return tuple(round(count / 4 * (i + 1)) - 1 for i in range(4))


@MODELS.register_module()
class CLIPEmbedding(BaseModule):
    """CLIP's own embedding of an image as the global feature, beside the last map as tokens.

    Args:
        in_channels: channels of the backbone's maps; follow from it.
        embed_dim: width of CLIP's embedding; follows from the backbone.

    Shapes:
        - maps: sequence of (B, C_i, H_i, W_i), which may be empty
        - embedding: (B, embed_dim)
        - output: :class:`VisualFeatures`, tokens (B, H * W, in_channels[-1]), or (B, 0, 0) without maps, embedding
          (B, embed_dim)

    Raises:
        ValueError: when the backbone has no embedding.

    Example:
        >>> import torch
        >>> tokens, embedding = CLIPEmbedding((16,), embed_dim=32)([torch.rand(2, 16, 7, 7)], torch.rand(2, 32))
        >>> tuple(tokens.shape), tuple(embedding.shape)
        ((2, 49, 16), (2, 32))
    """

    def __init__(self, in_channels: Sequence[int] = (), embed_dim: int = 512, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.in_channels = tuple(in_channels)
        self.token_channels = self.in_channels[-1] if self.in_channels else 0
        self.embed_dim = embed_dim

    def forward(self, maps: Sequence[Tensor], embedding: Tensor | None = None) -> VisualFeatures:
        """Take the embedding."""
        if embedding is None:
            raise ValueError(
                'CLIPEmbedding needs a backbone with an embedding of its own, such as '
                'backbone=dict(type="galr_mm.OpenCLIPBackbone", ...)'
            )
        tokens = maps[-1].flatten(2).transpose(1, 2) if len(maps) else embedding.new_zeros(len(embedding), 0, 0)
        return VisualFeatures(tokens, embedding)
