from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph


@MODELS.register_module()
class RoINodes(BaseModule):
    r"""What the backbone sees in each object's box, beside the node's own features.

    :math:`x'_i = [x_i, W\,\mathrm{mean}(\mathrm{RoIAlign}(f, b_i))]` with the relative box :math:`b_i` of the
    graph, so the size of the map does not matter. Gradients reach the backbone.

    Args:
        in_channels: channels of the backbone's maps, from fine to coarse.
        out_channels: dimensions added to a node.
        level: which map; -2 has 1/16 of the image's size in a ResNet.
        roi_size: side of the grid that is averaged over a box.

    Shapes:
        - input: :class:`ObjectGraph` with x (B, N, F) and boxes (B, N, 4), maps (B, C_i, H_i, W_i)
        - output: the graph with x (B, N, F + out_channels), zero rows for padding

    Raises:
        ValueError: when the backbone gives no such map, or the graph has no boxes.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 32,
        level: int = -2,
        roi_size: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not -len(in_channels) <= level < len(in_channels):
            raise ValueError(f'level is {level}, but the backbone gives {len(in_channels)} maps (its out_indices)')
        self.level = level
        self.roi_size = roi_size
        self.out_channels = out_channels
        self.fc = nn.Linear(in_channels[level], out_channels)

    def forward(self, graph: ObjectGraph, maps: Sequence[Tensor]) -> ObjectGraph:
        """Add the features of the boxes to the nodes."""
        from mmcv.ops import roi_align  # compiled, so only where it is used

        if graph.boxes is None:
            raise ValueError('the object graph has no boxes to look into; DREA gives them')
        feats = maps[self.level]
        batch, nodes = graph.mask.shape
        scale = graph.boxes.new_tensor([feats.shape[-1], feats.shape[-2]]).repeat(2)
        boxes = graph.boxes * scale  # in units of the map
        owner = torch.arange(batch, device=feats.device).repeat_interleave(nodes)[:, None]
        rois = torch.cat([owner.to(boxes.dtype), boxes.reshape(-1, 4)], dim=1).float()
        pooled = roi_align(feats.float(), rois, self.roi_size, 1.0, 0, 'avg', True).mean(dim=(2, 3))
        pooled = self.fc(pooled).view(batch, nodes, -1) * graph.mask[..., None]
        return graph._replace(x=torch.cat([graph.x, pooled.to(graph.x.dtype)], dim=-1))
