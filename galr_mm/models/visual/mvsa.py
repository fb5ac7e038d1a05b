from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.models.visual.features import VisualFeatures
from galr_mm.registry import MODELS


def concat_maps(maps: Sequence[Tensor]) -> Tensor:
    """Join feature maps along the channels at the size of the first, the others resized to it (nearest)."""
    size = maps[0].shape[-2:]
    return torch.cat([m if m.shape[-2:] == size else F.interpolate(m, size=size, mode='nearest') for m in maps], dim=1)


@MODELS.register_module()
class MVSA(BaseModule):
    r"""Multiscale visual self-attention over a backbone's feature maps (GaLR Sec. III-B, after AMFMN).

    With maps :math:`f_1 \dots f_4` from fine to coarse,

    .. math::
        low &= \mathrm{conv}_{3\times3,\,s}([f_1, f_2]), \quad high = \mathrm{conv}_{1\times1}([f_3, f_4]) \\
        joint &= [low, high] + \mathrm{mean}_c(high) \\
        mask &= \sigma(W_m\,\mathrm{flat}(\mathrm{conv}(joint) \cdot \sigma(\mathrm{conv}(joint)))) \\
        v_g &= \mathrm{L2}(W_s\,\mathrm{mean}_{xy}(f_4) \cdot mask)

    The first half of the maps counts as low, the rest as high, so any backbone with two or more maps serves; ``low``
    and ``high`` are pooled to ``map_size``, which does nothing for the 16 x 16 of the released code.

    Args:
        in_channels: channels of the backbone's maps, from fine to coarse; a retriever infers them.
        embed_dim: width of the embedding.
        mid_channels: channels of ``low`` and of ``high``.
        map_size: side of the joint map.
        low_stride: stride of the first convolution; 4 brings a map of 1/4 of the image to 1/16.

    Shapes:
        - maps: sequence of (B, C_i, H_i, W_i); a backbone's own ``embedding`` is not used
        - output: :class:`VisualFeatures`, tokens (B, H_3 * W_3, token_channels), embedding (B, embed_dim) L2-normalized

    Example:
        >>> import torch
        >>> mvsa = MVSA(in_channels=(8, 16), embed_dim=32)
        >>> tokens, embedding = mvsa([torch.rand(2, 8, 16, 16), torch.rand(2, 16, 8, 8)])
        >>> tuple(tokens.shape), tuple(embedding.shape)
        ((2, 64, 16), (2, 32))
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 128, 256, 512),
        embed_dim: int = 512,
        mid_channels: int = 3,
        map_size: int = 16,
        low_stride: int = 4,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) < 2:
            raise ValueError(f'MVSA needs two or more feature maps, got in_channels={tuple(in_channels)}')
        self.in_channels = tuple(in_channels)
        self.num_low = len(in_channels) // 2
        self.map_size = map_size
        self.embed_dim = embed_dim
        self.token_channels = sum(in_channels[self.num_low :])
        self.low_conv = nn.Conv2d(sum(in_channels[: self.num_low]), mid_channels, 3, stride=low_stride)
        self.high_conv = nn.Conv2d(self.token_channels, mid_channels, 1)
        self.value_conv = nn.Conv2d(2 * mid_channels, 1, 1)
        self.gate_conv = nn.Conv2d(2 * mid_channels, 1, 1)
        self.mask_fc = nn.Linear(map_size * map_size, embed_dim)
        self.solo_fc = nn.Linear(in_channels[-1], embed_dim)

    def forward(self, maps: Sequence[Tensor], embedding: Tensor | None = None) -> VisualFeatures:
        """Encode feature maps."""
        if len(maps) != len(self.in_channels):
            raise ValueError(
                f'MVSA was built for {len(self.in_channels)} feature maps of {self.in_channels} channels, the backbone '
                f'gave {len(maps)} of {tuple(m.shape[1] for m in maps)}; set its out_indices'
            )
        low_maps, high_maps = concat_maps(maps[: self.num_low]), concat_maps(maps[self.num_low :])
        # a map smaller than the 3 x 3 kernel (small images, deep backbones) is enlarged to it
        if min(low_maps.shape[-2:]) < 3:
            low_maps = F.interpolate(low_maps, size=[max(3, s) for s in low_maps.shape[-2:]], mode='nearest')
        low = F.adaptive_avg_pool2d(self.low_conv(low_maps), self.map_size)  # B, mid, 16, 16
        high = F.adaptive_avg_pool2d(self.high_conv(high_maps), self.map_size)
        joint = torch.cat([low, high], dim=1) + high.mean(dim=1, keepdim=True)
        value = self.value_conv(joint) * self.gate_conv(joint).sigmoid()  # B, 1, 16, 16
        mask = self.mask_fc(value.flatten(1)).sigmoid()  # B, D
        solo = self.solo_fc(maps[-1].mean(dim=(2, 3)))  # B, D
        return VisualFeatures(high_maps.flatten(2).transpose(1, 2), F.normalize(solo * mask, dim=-1))


@MODELS.register_module()
class GlobalPool(BaseModule):
    """Mean of the last feature map and a linear layer, or two with a ReLU between: the plain image tower.

    Args:
        in_channels: channels of the backbone's last map, or of all of them; a retriever infers them.
        embed_dim: width of the embedding.
        hidden_dim: width between two linear layers; None has one.
        dropout: on the mean and between the layers.

    Shapes:
        - maps: sequence of maps, the last (B, C, H, W); a backbone's own ``embedding`` is not used
        - output: :class:`VisualFeatures`, tokens (B, H * W, C), embedding (B, embed_dim)

    Example:
        >>> import torch
        >>> tokens, embedding = GlobalPool(in_channels=16, embed_dim=32)([torch.rand(2, 16, 8, 8)])
        >>> tuple(tokens.shape), tuple(embedding.shape)
        ((2, 64, 16), (2, 32))
    """

    def __init__(
        self,
        in_channels: int | Sequence[int] = 512,
        embed_dim: int = 512,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        self.embed_dim = embed_dim
        self.token_channels = self.in_channels[-1]
        self.dropout = nn.Dropout(dropout)
        self.fc = projection(self.token_channels, embed_dim, hidden_dim, dropout)

    def forward(self, maps: Sequence[Tensor], embedding: Tensor | None = None) -> VisualFeatures:
        """Encode the last feature map."""
        last = maps[-1]
        return VisualFeatures(last.flatten(2).transpose(1, 2), self.fc(self.dropout(last.mean(dim=(2, 3)))))


def projection(in_dim: int, out_dim: int, hidden_dim: int | None, dropout: float) -> nn.Module:
    """A linear layer, or with ``hidden_dim`` two, with a ReLU and dropout between."""
    if hidden_dim is None:
        return nn.Linear(in_dim, out_dim)
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, out_dim))
