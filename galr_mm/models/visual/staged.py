from __future__ import annotations

from abc import abstractmethod

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from galr_mm.messages import shorten


class StagedBackbone(BaseModule):
    """A backbone in stages, which can start from the map after any of them.

    So the output of its frozen stages, which training does not change, is computed once and kept, see
    ``tools/cache_features.py``. A subclass gives :meth:`stage`.

    Args:
        num_stages: the stem counts as stage 0.
        out_indices: stages whose maps are given, from fine to coarse; stages after the last are not trained.
        frozen_stages: stages 0 to N are not trained; -1 trains all, ``num_stages - 1`` none.
        norm_eval: keep the running statistics of all BatchNorm layers, also of those that are trained.

    Raises:
        ValueError: for a stage that there is not, or one that is not a whole number.
    """

    def __init__(
        self,
        num_stages: int,
        out_indices: tuple[int, ...],
        frozen_stages: int = -1,
        norm_eval: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        last = num_stages - 1
        whole = [i for i in out_indices if type(i) is int and 0 <= i <= last]
        if not whole or list(out_indices) != sorted(set(whole)):
            raise ValueError(f'out_indices is {out_indices}, expected rising stages between 0 and {last}')
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= last:  # True is 1, which few would mean
            raise ValueError(f'frozen_stages is {shorten(frozen_stages)}, expected -1 (none) to {last} (all)')
        self.num_stages = num_stages
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    @abstractmethod
    def stage(self, index: int) -> nn.Module:
        """The module that makes the map of a stage from that of the one before."""

    def freeze(self) -> None:
        """Leave the frozen stages out of training, and those after ``out_indices``, which no loss would reach.

        A subclass calls it when its stages are built.
        """
        for index in range(self.num_stages):
            if index <= self.frozen_stages or index > self.out_indices[-1]:
                self.stage(index).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> StagedBackbone:
        """Switch to training, but for frozen stages and, with ``norm_eval``, normalization."""
        super().train(mode)
        for index in range(self.num_stages):
            if index <= self.frozen_stages:
                self.stage(index).eval()
            elif self.norm_eval:
                for module in self.stage(index).modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) of normalized images (B, 3, H, W), of the stages in ``out_indices``."""
        return self.forward_from(images, -1)

    def forward_from(self, maps: Tensor, stage: int) -> tuple[Tensor, ...]:
        """The same from the map (B, C, H, W) after ``stage``.

        Raises:
            ValueError: when a stage before it is asked for.
        """
        self.require_stages_after(stage)
        maps = maps.contiguous(memory_format=torch.channels_last)  # faster on a CPU, and the next layers keep it
        given = [maps] if stage in self.out_indices else []
        for index in range(stage + 1, self.out_indices[-1] + 1):
            maps = self.stage(index)(maps)
            if index in self.out_indices:
                given.append(maps)
        return tuple(given)

    def require_stages_after(self, stage: int) -> None:
        """Raise ValueError when ``out_indices`` asks for a map before that of ``stage``, or there is no such stage."""
        if not stage < self.num_stages:
            raise ValueError(f'there is no stage {stage}; the last is {self.num_stages - 1}')
        if self.out_indices[0] < stage:
            raise ValueError(f'out_indices is {self.out_indices}: stage {self.out_indices[0]} comes before {stage}')

    def forward_until(self, images: Tensor, stage: int) -> Tensor:
        """The map after ``stage`` of normalized images (B, 3, H, W)."""
        for index in range(stage + 1):
            images = self.stage(index)(images)
        return images
