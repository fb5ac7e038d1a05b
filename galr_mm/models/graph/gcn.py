from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph


class GraphFeatures(NamedTuple):
    """What a graph encoder makes of an object graph.

    Shapes:
        - tokens: (B, N, token_channels), one vector a node, zero for padding
        - embedding: (B, D), all objects as one vector
    """

    tokens: Tensor
    embedding: Tensor


@MODELS.register_module()
class GCN(BaseModule):
    r"""Graph convolutions over object graphs (GaLR Sec. III-C).

    Each layer is :math:`X \leftarrow \mathrm{ReLU}(A X W)`, the adjacency used as given; then a read-out, a linear
    layer and an L2 norm. 'flatten' (released) depends on the order of the nodes, which DREA sorts by score;
    'mean' does not. A graph without nodes gives the (constant) image of zero.

    Args:
        in_channels: width of the node features.
        num_nodes: nodes of a graph, needed by the 'flatten' read-out.
        channels: widths of the layers.
        embed_dim: width of the embedding.
        readout: 'flatten' or 'mean'.

    Shapes:
        - input: :class:`ObjectGraph` with x (B, N, in_channels)
        - output: :class:`GraphFeatures`, tokens (B, N, channels[-1]), embedding (B, embed_dim) L2-normalized
    """

    def __init__(
        self,
        in_channels: int,
        num_nodes: int,
        channels: Sequence[int] = (20, 10, 20),
        embed_dim: int = 512,
        readout: str = 'flatten',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        from torch_geometric.nn import DenseGINConv  # slow to import, so only where it is used

        if readout not in ('flatten', 'mean'):
            raise ValueError(f"readout is {readout!r}, expected 'flatten' or 'mean'")
        self.num_nodes = num_nodes
        self.readout = readout
        self.token_channels = channels[-1]
        widths = [in_channels, *channels]
        # DenseGINConv without self loops is exactly W(AX): DenseGCNConv would normalize A again
        self.layers = nn.ModuleList(
            DenseGINConv(nn.Linear(a, b, bias=False)) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.out = nn.Linear(channels[-1] * (num_nodes if readout == 'flatten' else 1), embed_dim)

    def forward(self, graph: ObjectGraph) -> GraphFeatures:
        """Encode object graphs."""
        x = graph.x
        for layer in self.layers:
            x = layer(x, graph.adj, graph.mask, add_loop=False).relu()  # B, N, C
        if self.readout == 'flatten':
            if x.shape[1] != self.num_nodes:
                raise ValueError(
                    f'a graph of {x.shape[1]} nodes, but the flatten read-out was built for {self.num_nodes}'
                )
            pooled = x.flatten(1)
        else:
            count = graph.mask.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.where(graph.mask[..., None], x, 0.0).sum(1) / count
        return GraphFeatures(x, F.normalize(self.out(pooled), dim=-1))
