from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.registry import MODELS

MODES = ('paper', 'released', 'tokens', 'sum', 'global_only', 'local_only')


class ReleasedLayerNorm(nn.Module):
    """The layer norm of the released code: unbiased standard deviation, eps added outside the root."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        centered = x - x.mean(-1, keepdim=True)
        return self.weight * centered / (x.std(-1, keepdim=True) + self.eps) + self.bias


class AttentionBlock(nn.Module):
    """Attention over one context after another, each with add & norm, then a feed-forward net with add & norm.

    One context is the SA or GA of the paper's figure; two are the guided block of the released code.

    Shapes:
        - x: queries (B, Q, D)
        - contexts: per attention (keys and values (B, K, D), bool (B, K) true where they count, or None for all)
        - output: (B, Q, D)
    """

    def __init__(
        self, dim: int, num_heads: int, ff_dim: int, dropout: float, num_contexts: int = 1, norm: type = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True) for _ in range(num_contexts)
        )
        self.ffn = nn.Sequential(nn.Linear(dim, ff_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ff_dim, dim))
        self.norms = nn.ModuleList(norm(dim) for _ in range(num_contexts + 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *contexts: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Attend; a context of (None, None) is the query itself."""
        for attention, norm, (context, mask) in zip(self.attentions, self.norms, contexts, strict=False):
            context = x if context is None else context
            ignored = None if mask is None else ~mask
            attended, _ = attention(x, context, context, key_padding_mask=ignored, need_weights=False)
            x = norm(x + self.dropout(attended))
        return self.norms[-1](x + self.dropout(self.ffn(x)))


@MODELS.register_module()
class MIDF(BaseModule):
    r"""Multilevel information dynamic fusion of the global and the local branch (GaLR Sec. III-D).

    'paper', after the paper's figure, in parallel:

    .. math::
        g_1 &= SA(v_g), \quad l_1 = SA(v_l), \quad g_2 = GA(g_1; l_1), \quad l_2 = GA(l_1; g_1) \\
        g' &= g_2 \odot l_2, \quad l' = l_2 + g_2, \quad \gamma = \mathrm{softmax}(MLP(g' + l')) \\
        v &= \gamma_0 g' + \gamma_1 l'

    'tokens' does the same with :math:`v_g` followed by the map positions and :math:`v_l` followed by the object nodes,
    so that attention has more than one thing to choose from. 'released' is what the released code computes, for parity:
    one after the other (local first), an extra self-attention in the guided blocks, :math:`g' = \sigma(l_2) g_2`, and
    :math:`\gamma_0` for both parts, which the cosine cancels. 'sum' adds the two embeddings; 'global_only' and
    'local_only' pass one through.

    Args:
        mode: one of the above.
        dim: width of the embeddings.
        num_heads: attention heads.
        ff_dim: width of the feed-forward nets.
        dropout: of attention and feed-forward nets.
        weight_dropout: of the net that computes gamma.
        global_channels: width of the map positions ('tokens' only).
        local_channels: width of the object nodes ('tokens' only).

    Shapes:
        - v_g, v_l: (B, dim); the one a mode does not use may be None
        - global_tokens: (B, P, global_channels), local_tokens: (B, N, local_channels), local_mask: bool (B, N)
        - output: (B, dim), not normalized
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
            raise ValueError(f'mode is {mode!r}, expected one of {MODES}')
        self.mode = mode
        self.uses_global = mode != 'local_only'
        self.uses_local = mode != 'global_only'
        if mode in ('sum', 'global_only', 'local_only'):
            return
        released = mode == 'released'
        norm = ReleasedLayerNorm if released else nn.LayerNorm

        def block(num_contexts: int = 1) -> AttentionBlock:
            return AttentionBlock(dim, num_heads, ff_dim, dropout, num_contexts, norm)

        self.global_self, self.local_self = block(), block()
        # local_guided: queries of the local side, keys and values of the global side
        self.local_guided, self.global_guided = block(1 + released), block(1 + released)
        self.weights = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid(), nn.Dropout(weight_dropout), nn.Linear(dim, 2))
        if mode == 'tokens':
            self.global_proj = nn.Linear(global_channels, dim)
            self.local_proj = nn.Linear(local_channels, dim)

    def forward(
        self,
        v_g: Tensor | None,
        v_l: Tensor | None,
        global_tokens: Tensor | None = None,
        local_tokens: Tensor | None = None,
        local_mask: Tensor | None = None,
    ) -> Tensor:
        """Fuse the two branches."""
        if self.mode == 'global_only':
            return v_g
        if self.mode == 'local_only':
            return v_l
        if self.mode == 'sum':
            return v_g + v_l
        if self.mode == 'released':
            return self._released(v_g, v_l)
        g, l, mask = v_g[:, None], v_l[:, None], None
        if self.mode == 'tokens':
            g = torch.cat([g, self.global_proj(global_tokens)], dim=1)  # B, 1 + P, D
            l = torch.cat([l, self.local_proj(local_tokens)], dim=1)  # B, 1 + N, D
            # v_l always counts, so an image without objects still has something to attend to
            mask = torch.cat([local_mask.new_ones(len(local_mask), 1), local_mask], dim=1)
        g = self.global_self(g, (None, None))
        l = self.local_self(l, (None, mask))
        # only the embeddings' own positions are read out
        g2 = self.global_guided(g[:, :1], (l, mask))[:, 0]  # B, D
        l2 = self.local_guided(l[:, :1], (g, None))[:, 0]
        g, l = g2 * l2, l2 + g2
        gamma = self.weights(g + l).softmax(dim=-1)  # B, 2
        return gamma[:, :1] * g + gamma[:, 1:] * l

    def _released(self, v_g: Tensor, v_l: Tensor) -> Tensor:
        own = (None, None)
        g = self.global_self(v_g[:, None], own)
        l = self.local_self(v_l[:, None], own)
        l = self.local_guided(l, own, (g, None))
        g = self.global_guided(g, own, (l, None))[:, 0]
        l = l[:, 0]
        g, l = l.sigmoid() * g, g + l
        gamma = self.weights(g + l).softmax(dim=-1)
        return gamma[:, :1] * (g + l)  # gamma_0 twice, as released

    def extra_repr(self) -> str:
        """What a print of the model shows."""
        return f'mode={self.mode!r}'
