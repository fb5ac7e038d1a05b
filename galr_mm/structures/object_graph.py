from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ObjectGraph(NamedTuple):
    """A batch of padded graphs of salient objects, one graph an image.

    Shapes:
        - x: node features (B, N, F)
        - adj: adjacency (B, N, N)
        - mask: bool (B, N), true for real objects
    """

    x: Tensor
    adj: Tensor
    mask: Tensor

    @classmethod
    def empty(cls, batch_size: int, num_nodes: int, num_features: int, like: Tensor) -> ObjectGraph:
        """Graphs without any object, on the device and in the dtype of ``like``."""
        return cls(
            like.new_zeros(batch_size, num_nodes, num_features),
            like.new_zeros(batch_size, num_nodes, num_nodes),
            torch.zeros(batch_size, num_nodes, dtype=torch.bool, device=like.device),
        )

    def to(self, *args, **kwargs) -> ObjectGraph:
        """Move all three tensors; a floating dtype is applied to ``x`` and ``adj`` only."""
        x, adj = self.x.to(*args, **kwargs), self.adj.to(*args, **kwargs)
        return ObjectGraph(x, adj, self.mask.to(x.device))
