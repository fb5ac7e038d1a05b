from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from torch import nn

from galr_mm.detection.detector import Found, detector_pipelines, find_objects, keep_best, require_weights
from galr_mm.integrations.installation import require_module
from galr_mm.registry import MODELS
from galr_mm.utils.frozen import keep_out_of_checkpoints


@MODELS.register_module()
class ProposalGenerator(nn.Module):
    """A frozen MMDet detector inside a retriever: the objects of raw images, as offline extraction finds them.

    It uses the detector's OWN preprocessing (size, normalization, channel order), which the checkpoint of an MMDet
    training holds. Its weights stay out of the retriever's checkpoints: they come from ``detector.init_cfg``.

    Args:
        detector: config of the detector, ``dict(_scope_='mmdet', type=..., init_cfg=dict(type='Pretrained',
            checkpoint=...))``. With ``type=None`` or none the detector's config is taken from the checkpoint too.
        pipeline: its test pipeline; by default that of the config which the checkpoint holds.
        score_thr: leave out lower scores.
        max_per_image: keep the best-scored so many.

    Raises:
        ImportError: when mmdet is not installed.
        FileNotFoundError: when the checkpoint is missing.
        ValueError: when it is another detector's, or holds no config and ``pipeline`` is not given.
    """

    def __init__(
        self,
        detector: dict,
        pipeline: Sequence[dict] | None = None,
        score_thr: float = 0.1,
        max_per_image: int = 100,
    ) -> None:
        super().__init__()
        require_module('mmdet', 'detect')
        detector = dict(detector)
        checkpoint = dict(detector.pop('init_cfg', None) or {}).get('checkpoint')
        if checkpoint is None:
            raise ValueError("a proposal generator needs init_cfg=dict(type='Pretrained', checkpoint=...)")
        if '://' not in str(checkpoint) and not Path(checkpoint).is_file():
            raise FileNotFoundError(f'no detector at {checkpoint}')
        saved = _saved_config(checkpoint)
        if detector.get('type') is None:
            if saved is None:
                raise ValueError(f'{checkpoint} holds no config; give the detector its type and parts')
            detector = saved.model.to_dict()
        if pipeline is None:
            if saved is None:
                raise ValueError(f"{checkpoint} holds no config; give the detector's test pipeline as pipeline=[...]")
            pipeline = saved.test_dataloader.dataset.pipeline
        with DefaultScope.overwrite_default_scope('mmdet'):
            # mmdet reads settings of its parts as attributes
            self.detector = MODELS.build(ConfigDict({'_scope_': 'mmdet', **detector}))
        self.classes = require_weights(self.detector, checkpoint)
        load_checkpoint(self.detector, str(checkpoint), map_location='cpu')
        self.for_files, self.for_arrays = detector_pipelines(pipeline)
        self.score_thr = score_thr
        self.max_per_image = max_per_image
        self.requires_grad_(False).train(False)
        keep_out_of_checkpoints(self, 'detector')

    def train(self, mode: bool = True) -> ProposalGenerator:
        """Stay in evaluation: the detector is frozen."""
        return super().train(False)

    def forward(self, images: Sequence[str | Path | np.ndarray]) -> list[Found]:
        """Objects of image files, or of BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.

        Raises:
            OSError: when an image cannot be read or is too thin to be resized; names it.
        """
        batch = []
        for number, image in enumerate(images):
            is_array = isinstance(image, np.ndarray)
            try:
                if is_array:
                    batch.append(self.for_arrays(dict(img=image, img_id=number)))
                else:
                    batch.append(self.for_files(dict(img_path=str(image), img_id=number)))
            except Exception as error:
                name = f'array {number} of {image.shape}' if is_array else f'image {image}'
                raise OSError(f'cannot read the {name} for the detector: {" ".join(str(error).split())}') from error
        return [
            keep_best(*objects, self.score_thr, self.max_per_image) for objects in find_objects(self.detector, batch)
        ]


def _saved_config(checkpoint: str | Path) -> Config | None:
    content = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    text = content.get('meta', {}).get('cfg')
    return None if text is None else Config.fromstring(text, '.py')
