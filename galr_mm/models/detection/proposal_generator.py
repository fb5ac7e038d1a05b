from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from galr_mm.detection.detector import MMDetDetector
from galr_mm.registry import MODELS
from galr_mm.structures import Detections
from galr_mm.utils.frozen import keep_out_of_checkpoints


@MODELS.register_module()
class ProposalGenerator(nn.Module):
    """A frozen MMDet detector inside a retriever: the objects of raw images, as offline extraction finds them.

    It uses the detector's own preprocessing. Its weights stay out of the retriever's checkpoints: they come from
    ``checkpoint``.

    Args:
        checkpoint: weights of an MMDet training.
        config: MMDet config, as a file or as its content. None takes the one that the checkpoint holds, read as data.
        score_thr: leave out lower scores.
        max_per_image: keep the N highest-scoring objects.

    Raises:
        ImportError: when mmdet is not installed.
        FileNotFoundError: when checkpoint or config is missing.
        ValueError: see :class:`galr_mm.detection.detector.MMDetDetector`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str | Path | Mapping[str, Any] | None = None,
        score_thr: float = 0.1,
        max_per_image: int = 100,
    ) -> None:
        super().__init__()
        self.adapter = MMDetDetector(checkpoint, config)
        self.model = self.adapter.model
        self.classes = self.adapter.classes
        self.score_thr = score_thr
        self.max_per_image = max_per_image
        self.requires_grad_(False).train(False)
        keep_out_of_checkpoints(self, 'model')

    def train(self, mode: bool = True) -> ProposalGenerator:
        """Stay in evaluation: the detector is frozen."""
        return super().train(False)

    def forward(self, images: Sequence[str | Path | np.ndarray]) -> list[Detections]:
        """Objects of image files, or of BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.

        Raises:
            OSError: when an image cannot be read or is too thin to be resized; names it.
        """
        found = self.adapter.detect(images)
        return [detections.filtered(self.score_thr, self.max_per_image).as_stored() for detections in found]
