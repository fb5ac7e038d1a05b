from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.models.fusion.attention import AttentionBlock, Context, weight_net
from galr_mm.registry import MODELS

MODES = ('paper', 'tokens', 'sum')
# modes of earlier code, with what replaces each
INSTEAD = {
    'global_only': 'the global branch alone is a model with local=None',
    'local_only': 'the local branch alone is a model with backbone=None, visual=None',
    'released': "the fusion of the released code is type='galr_mm.ReleasedMIDF'",
}


@MODELS.register_module()
class MIDF(BaseModule):
    r"""Multilevel information dynamic fusion of the global and the local branch (GaLR Sec. III-D).

    'paper', after the paper's figure, in parallel:

    .. math::
        g_1 &= SA(v_g), \quad l_1 = SA(v_l), \quad g_2 = GA(g_1; l_1), \quad l_2 = GA(l_1; g_1) \\
        g' &= g_2 \odot l_2, \quad l' = l_2 + g_2, \quad \gamma = \mathrm{softmax}(MLP(g' + l')) \\
        v &= \gamma_0 g' + \gamma_1 l'

    'tokens' does the same with :math:`v_g` followed by the map positions and :math:`v_l` followed by the object nodes,
    so that attention has more than one thing to choose from. 'sum' is :math:`v_g + v_l`. What the released code
    computes is :class:`galr_mm.ReleasedMIDF`.

    Args:
        mode: 'paper', 'tokens' or 'sum'.
        dim: width of the embeddings; follows from the branches, as the next two do.
        global_channels: width of the map positions ('tokens' only).
        local_channels: width of the object nodes ('tokens' only).
        num_heads: attention heads.
        ff_dim: width of the feed-forward nets.
        dropout: of attention and feed-forward nets.
        weight_dropout: of the net that computes gamma.

    Shapes:
        - v_g, v_l: (B, dim)
        - global_tokens: (B, P, global_channels), local_tokens: (B, N, local_channels), local_mask: bool (B, N), true
          for real objects; needed by 'tokens' only
        - output: (B, dim), not normalized

    Raises:
        ValueError: for an unknown mode, and for 'tokens' without tokens.

    Example:
        >>> import torch
        >>> fusion = MIDF('paper', dim=64, num_heads=4)
        >>> tuple(fusion(torch.rand(2, 64), torch.rand(2, 64)).shape)
        (2, 64)
    """

    def __init__(
        self,
        mode: str = 'paper',
        dim: int = 512,
        num_heads: int = 8,
        ff_dim: int = 1024,
        dropout: float = 0.1,
        weight_dropout: float = 0.2,
        global_channels: int = 768,
        local_channels: int = 20,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if mode not in MODES:
            hint = f'; {INSTEAD[mode]}' if mode in INSTEAD else ''
            raise ValueError(f'mode is {mode!r}, expected one of {MODES}{hint}')
        self.mode = mode
        self.reads_tokens = mode == 'tokens'
        if mode == 'sum':
            return

        def block() -> AttentionBlock:
            return AttentionBlock(dim, num_heads, ff_dim, dropout)

        self.global_self, self.local_self = block(), block()
        # local_guided: queries of the local side, keys and values of the global side
        self.local_guided, self.global_guided = block(), block()
        self.weights = weight_net(dim, weight_dropout)
        if mode == 'tokens':
            self.global_proj = nn.Linear(global_channels, dim)
            self.local_proj = nn.Linear(local_channels, dim)

    def forward(
        self,
        v_g: Tensor,
        v_l: Tensor,
        global_tokens: Tensor | None = None,
        local_tokens: Tensor | None = None,
        local_mask: Tensor | None = None,
    ) -> Tensor:
        """Fuse the two branches."""
        if self.mode == 'sum':
            return v_g + v_l
        g, l, mask = v_g[:, None], v_l[:, None], None
        if self.mode == 'tokens':
            if global_tokens is None or local_tokens is None or local_mask is None:
                raise ValueError("mode='tokens' needs global_tokens, local_tokens and local_mask")
            g = torch.cat([g, self.global_proj(global_tokens)], dim=1)  # B, 1 + P, D
            l = torch.cat([l, self.local_proj(local_tokens)], dim=1)  # B, 1 + N, D
            # v_l always counts, so an image without objects still has something to attend to
            mask = torch.cat([local_mask.new_ones(len(local_mask), 1), local_mask], dim=1)
        g = self.global_self(g, Context(g))
        l = self.local_self(l, Context(l, mask))
        # only the embeddings' own positions are read out
        g2 = self.global_guided(g[:, :1], Context(l, mask))[:, 0]  # B, D
        l2 = self.local_guided(l[:, :1], Context(g))[:, 0]
        g, l = g2 * l2, l2 + g2
        gamma = self.weights(g + l).softmax(dim=-1)  # B, 2
        return gamma[:, :1] * g + gamma[:, 1:] * l

    def extra_repr(self) -> str:
        """What a print of the model shows."""
        return f'mode={self.mode!r}'
