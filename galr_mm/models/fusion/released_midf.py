from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.models.fusion.attention import AttentionBlock, Context, weight_net
from galr_mm.registry import MODELS


class ReleasedLayerNorm(nn.Module):
    r"""The layer norm of the released code: unbiased standard deviation, eps added outside the root.

    .. math:: y = w \frac{x - \mathrm{mean}(x)}{\mathrm{std}(x) + \epsilon} + b

    Shapes:
        - input and output: (..., dim)
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        centered = x - x.mean(-1, keepdim=True)
        return self.weight * centered / (x.std(-1, keepdim=True) + self.eps) + self.bias


@MODELS.register_module()
class ReleasedMIDF(BaseModule):
    r"""The fusion that the released code of GaLR computes, for its checkpoints.

    It differs from the paper (:class:`galr_mm.MIDF`): one side after the other, local first; an extra self-attention in
    the guided blocks (SGA); and :math:`\gamma_0` for both parts, which the cosine cancels.

    .. math::
        g_1 &= SA(v_g), \quad l_1 = SA(v_l), \quad l_2 = SGA(l_1; g_1), \quad g_2 = SGA(g_1; l_2) \\
        g' &= \sigma(l_2) \odot g_2, \quad l' = g_2 + l_2, \quad \gamma = \mathrm{softmax}(MLP(g' + l')) \\
        v &= \gamma_0 (g' + l')

    Args:
        dim: width of the embeddings.
        num_heads: attention heads.
        ff_dim: width of the feed-forward nets.
        dropout: of attention and feed-forward nets.
        weight_dropout: of the net that computes gamma.
        global_channels: what a model tells every fusion; this one looks at the embeddings only.
        local_channels: likewise.

    Shapes:
        - v_g, v_l: (B, dim); the other inputs of :class:`galr_mm.MIDF` are not used
        - output: (B, dim), not normalized

    Example:
        >>> import torch
        >>> tuple(ReleasedMIDF(dim=64, num_heads=4)(torch.rand(2, 64), torch.rand(2, 64)).shape)
        (2, 64)
    """

    def __init__(
        self,
        dim: int = 512,
        num_heads: int = 8,
        ff_dim: int = 1024,
        dropout: float = 0.1,
        weight_dropout: float = 0.2,
        global_channels: int | None = None,
        local_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)

        def block(num_contexts: int) -> AttentionBlock:
            return AttentionBlock(dim, num_heads, ff_dim, dropout, num_contexts, ReleasedLayerNorm)

        self.global_self, self.local_self = block(1), block(1)
        self.local_guided, self.global_guided = block(2), block(2)
        self.weights = weight_net(dim, weight_dropout)

    def forward(
        self,
        v_g: Tensor,
        v_l: Tensor,
        global_tokens: Tensor | None = None,
        local_tokens: Tensor | None = None,
        local_mask: Tensor | None = None,
    ) -> Tensor:
        """Fuse the two branches."""
        g, l = v_g[:, None], v_l[:, None]
        g = self.global_self(g, Context(g))
        l = self.local_self(l, Context(l))
        l = self.local_guided(l, Context(l), Context(g))
        g = self.global_guided(g, Context(g), Context(l))[:, 0]
        l = l[:, 0]
        g, l = l.sigmoid() * g, g + l
        gamma = self.weights(g + l).softmax(dim=-1)
        return gamma[:, :1] * (g + l)  # gamma_0 twice, as released
