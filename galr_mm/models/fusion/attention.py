from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Context(NamedTuple):
    """What an attention looks at.

    Shapes:
        - tokens: keys and values (B, K, D)
        - mask: bool (B, K), true where they count; None for all
    """

    tokens: Tensor
    mask: Tensor | None = None


class AttentionBlock(nn.Module):
    r"""Attention over one context after another, each with add & norm, then a feed-forward net with add & norm.

    .. math::
        x &\leftarrow \mathrm{norm}_i(x + \mathrm{attention}_i(x, context_i)) \quad \text{for each context} \\
        x &\leftarrow \mathrm{norm}(x + \mathrm{ffn}(x))

    Args:
        dim: width D.
        num_heads: attention heads.
        ff_dim: width of the feed-forward net.
        dropout: of attention and feed-forward net.
        num_contexts: how many contexts the block attends to.
        norm: makes a norm of a width.

    Shapes:
        - x: queries (B, Q, D)
        - contexts: as many as ``num_contexts``
        - output: (B, Q, D)
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ff_dim: int,
        dropout: float,
        num_contexts: int = 1,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True) for _ in range(num_contexts)
        )
        self.ffn = nn.Sequential(nn.Linear(dim, ff_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ff_dim, dim))
        self.norms = nn.ModuleList(norm(dim) for _ in range(num_contexts + 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *contexts: Context) -> Tensor:
        """Attend to each context in turn."""
        *attention_norms, ffn_norm = self.norms
        for attention, norm, context in zip(self.attentions, attention_norms, contexts, strict=True):
            ignored = None if context.mask is None else ~context.mask
            attended, _ = attention(x, context.tokens, context.tokens, key_padding_mask=ignored, need_weights=False)
            x = norm(x + self.dropout(attended))
        return ffn_norm(x + self.dropout(self.ffn(x)))


def weight_net(dim: int, dropout: float) -> nn.Sequential:
    """The net whose softmax weighs the two parts (gamma): (B, D) -> (B, 2)."""
    return nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid(), nn.Dropout(dropout), nn.Linear(dim, 2))
