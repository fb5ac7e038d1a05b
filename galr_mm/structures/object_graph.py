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
        - boxes: (B, N, 4), xyxy relative to the image's width and height, zero for padding; None in a graph that was
          made without boxes, which a GCN reads but :class:`galr_mm.RoINodes` cannot
    """

    x: Tensor
    adj: Tensor
    mask: Tensor
    boxes: Tensor | None = None

    @classmethod
    def empty(cls, batch_size: int, num_nodes: int, num_features: int, like: Tensor) -> ObjectGraph:
        """Graphs without any object, on the device and in the dtype of ``like``."""
        return cls(
            like.new_zeros(batch_size, num_nodes, num_features),
            like.new_zeros(batch_size, num_nodes, num_nodes),
            torch.zeros(batch_size, num_nodes, dtype=torch.bool, device=like.device),
            like.new_zeros(batch_size, num_nodes, 4),
        )
