from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F

from galr_mm.registry import MODELS


@MODELS.register_module()
class RetrievalTTAModel(BaseTTAModel):
    """Test-time augmentation: the feature of an image is the mean over its views, L2-normalized.

    ``tools/test.py --tta`` puts it around a model and takes the eight symmetries of a square for views. Captions have
    no views and are encoded once.

    Args:
        module: the retriever, or its config.
        data_preprocessor: of the retriever, where its config has none.

    Raises:
        ValueError: when the retriever has a detector inside, which would look at the files and not at their views.
    """

    def __init__(
        self, module: dict[str, Any] | nn.Module, data_preprocessor: dict[str, Any] | nn.Module | None = None
    ) -> None:
        super().__init__(module, data_preprocessor)
        if getattr(getattr(self.module, 'local', None), 'detector', None) is not None:
            raise ValueError(
                'views move boxes, and a detector inside the model sees the file: extract proposals before '
                '(tools/extract_proposals.py), and set model.local.detector=None'
            )

    def test_step(self, data: dict[str, Any]) -> list[DataSample]:
        """Predict a batch of samples, each field a list over views."""
        _, *others = data['data_samples']
        for samples in others:
            for sample in samples:
                sample.pop('text', None)
        return super().test_step(data)

    def merge_preds(self, data_samples_list: Sequence[Sequence[DataSample]]) -> list[DataSample]:
        """Of each image the sample of its first view, with the mean feature (D,) over all its views."""
        merged = []
        for views in data_samples_list:
            sample = views[0]
            if 'image_feat' in sample:
                sample.image_feat = F.normalize(torch.stack([view.image_feat for view in views]).mean(dim=0), dim=-1)
            merged.append(sample)
        return merged
