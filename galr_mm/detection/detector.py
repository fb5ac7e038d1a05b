"""An MMDet detector with its own preprocessing, for offline extraction and inside a model alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torchvision.ops import batched_nms

from galr_mm.detection.saved_config import check_types, read_config_text
from galr_mm.imagery import Window, open_image, read_image, windows
from galr_mm.integrations.checkpoints import read_checkpoint
from galr_mm.integrations.installation import require_module
from galr_mm.registry import MODELS
from galr_mm.structures import Detections
from galr_mm.utils.config import read_config_file


class MMDetDetector:
    """Any MMDet detector: image files or arrays in, :class:`galr_mm.structures.Detections` out.

    It uses the detector's OWN test pipeline (size, normalization, channel order). No global scope is left behind.

    Args:
        checkpoint: weights of an MMDet training.
        config: MMDet config, as a file or as its content (``model`` and ``test_dataloader``). None takes the one that
            the checkpoint holds; it is read as data, nothing of it is executed. A config FILE is Python and is run.
        device: where the detector goes.

    Attributes:
        model: the detector, in evaluation.
        classes: names of its labels.
        pipeline: its test pipeline for BGR uint8 arrays, ``dict(img=..., img_id=...)``. Files are loaded by
            :func:`galr_mm.imagery.read_image`, in place of the pipeline's own first step.

    Raises:
        ImportError: when mmdet is not installed.
        FileNotFoundError: when config or checkpoint is missing.
        ValueError: when the checkpoint cannot be read, is another detector's, holds no config where none is given, or
            nothing names the classes.
    """

    def __init__(
        self, checkpoint: str | Path, config: str | Path | Mapping[str, Any] | None = None, device: str = 'cpu'
    ) -> None:
        require_module('mmdet', 'detect')
        for path in (config, checkpoint):
            if isinstance(path, (str, Path)) and '://' not in str(path) and not Path(path).is_file():
                raise FileNotFoundError(f'no file at {path}')
        content = read_checkpoint(checkpoint)
        cfg = self._read_config(config, content, checkpoint)
        # mmdet's package imports slowly, and its parts look for each other in its own scope
        with DefaultScope.overwrite_default_scope('mmdet'):
            from mmdet.utils import get_test_pipeline_cfg

            # mmdet reads settings of its parts as attributes
            self.model: BaseModel = MODELS.build(ConfigDict({'_scope_': 'mmdet', **cfg.model}))
            steps = get_test_pipeline_cfg(cfg)
        _load_weights(self.model, content, checkpoint)
        self.model.to(device).eval()
        names = content.get('meta', {}).get('dataset_meta', {}).get('classes')
        names = names or cfg.test_dataloader.dataset.get('metainfo', {}).get('classes')
        if names is None:
            raise ValueError(
                f'neither {checkpoint} nor the config names the classes; set metainfo of the test data set'
            )
        self.classes = (names,) if isinstance(names, str) else tuple(names)
        self.cfg = cfg
        self.pipeline = _for_arrays(steps)

    @staticmethod
    def _read_config(
        config: str | Path | Mapping[str, Any] | None, content: Mapping[str, Any], checkpoint: str | Path
    ) -> Config:
        if isinstance(config, (str, Path)):
            return read_config_file(config)
        if config is None:
            text = content.get('meta', {}).get('cfg')
            if not isinstance(text, str):
                raise ValueError(f"{checkpoint} holds no config; give the detector's config=FILE")
            config = read_config_text(text, checkpoint)
            check_types([config.get('model'), config.get('test_dataloader')], checkpoint)
        missing = [key for key in ('model', 'test_dataloader') if key not in config]
        if missing:
            raise ValueError(f"the detector's config has no {' and no '.join(missing)}")
        return Config(dict(config))

    def detect(self, images: Sequence[str | Path | np.ndarray]) -> list[Detections]:
        """Objects of image files, or of BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.

        Raises:
            OSError: when an image cannot be read or is too thin to be resized; names it.
        """
        batch = []
        for index, image in enumerate(images):
            try:
                pixels = image if isinstance(image, np.ndarray) else read_image(image)
                batch.append(self.pipeline(dict(img=pixels, img_id=index)))
            except Exception as error:  # whatever a decoder or a resize raises
                name = f'array {index} of {image.shape}' if isinstance(image, np.ndarray) else f'image {image}'
                raise OSError(f'cannot read the {name} for the detector: {" ".join(str(error).split())}') from error
        return self.detect_prepared(batch)

    def detect_prepared(self, batch: Sequence[dict[str, Any]]) -> list[Detections]:
        """Objects of images that went through ``pipeline``.

        Images of equal size go through the detector together: padding one to the size of another would change its
        scores, so that they hung on what else is in the batch.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(batch):
            groups.setdefault(tuple(item['inputs'].shape), []).append(index)
        found: dict[int, Detections] = {}
        with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
            for indices in groups.values():
                results = self.model.test_step(pseudo_collate([batch[index] for index in indices]))
                for index, result in zip(indices, results, strict=True):
                    found[index] = Detections.from_instances(result.pred_instances.cpu(), result.ori_shape[:2])
        return [found[index] for index in range(len(batch))]

    def detect_in_tiles(
        self, path: str | Path, tile: int, overlap: int = 200, merge_iou: float = 0.5, batch_size: int = 8
    ) -> Detections:
        """Objects of a large image, found tile by tile and merged by non-maximum suppression within each class.

        Args:
            path: the image.
            tile: side of a tile in pixels.
            overlap: pixels that neighboring tiles share.
            merge_iou: of objects of one class that overlap more, the highest-scoring stays.
            batch_size: tiles at a time.
        """
        boxes: list[Tensor] = []
        found: list[Detections] = []
        with open_image(path) as image:
            size = (image.height, image.width)
            for group in _groups(windows(*size, tile, overlap), batch_size):
                batch = [self.pipeline(dict(img=image.read(window), img_id=i)) for i, window in enumerate(group)]
                for window, part in zip(group, self.detect_prepared(batch), strict=True):
                    found.append(part)
                    boxes.append(part.boxes + part.boxes.new_tensor([window.left, window.top]).repeat(2))
        merged = Detections(
            torch.cat(boxes),
            torch.cat([part.scores for part in found]),
            torch.cat([part.labels for part in found]),
            size,
        )
        keep = batched_nms(merged.boxes, merged.scores, merged.labels, merge_iou)
        return Detections(merged.boxes[keep], merged.scores[keep], merged.labels[keep], size)


def _load_weights(model: nn.Module, content: Mapping[str, Any], checkpoint: str | Path) -> None:
    """Load, and refuse a checkpoint of another detector, of which MMDet only logs what is missing."""
    weights = {key.removeprefix('module.'): value for key, value in content.get('state_dict', content).items()}
    own = model.state_dict()
    wrong = [key for key, value in own.items() if getattr(weights.get(key), 'shape', None) != value.shape]
    if wrong:
        raise ValueError(
            f'{checkpoint} does not fit the detector: {len(wrong)} of {len(own)} weights are missing or of another '
            f'shape, such as {wrong[0]}'
        )
    model.load_state_dict({key: weights[key] for key in own})


def _for_arrays(steps: Sequence[Mapping[str, Any]]) -> Compose:
    """A detector's test pipeline without annotations, for BGR arrays."""
    steps = [dict(step) for step in steps if 'LoadAnnotations' not in step['type']]
    if not steps or steps[0]['type'].split('.')[-1] != 'LoadImageFromFile':
        first = steps[0]['type'] if steps else 'nothing'
        raise ValueError(f"the detector's test pipeline begins with {first}, expected LoadImageFromFile")
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Compose([dict(steps[0], type='mmdet.LoadImageFromNDArray'), *steps[1:]])


def _groups(items: Iterator[Window], size: int) -> Iterator[list[Window]]:
    while group := list(islice(items, size)):
        yield group
