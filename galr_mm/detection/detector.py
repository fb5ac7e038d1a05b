"""An MMDet detector with its own preprocessing, and what is kept of the objects it finds, offline and online alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torchvision.ops import batched_nms

from galr_mm.imagery.tiles import open_image, windows
from galr_mm.integrations.installation import require_module


class Found(NamedTuple):
    """Objects of one image: rows [x, y, w, h, score, label] in pixels, highest score first, and its size."""

    rows: list[list[float]]
    height: int
    width: int


def build_detector(config: str | Path, checkpoint: str | Path, device: str = 'cpu') -> tuple[nn.Module, list[dict]]:
    """An MMDet detector and its own test pipeline; no global scope is left behind.

    Raises:
        ImportError: when mmdet is not installed.
        FileNotFoundError: when config or checkpoint is missing.
        ValueError: when the checkpoint is another detector's.
    """
    require_module('mmdet', 'detect')
    for path in (config, checkpoint):
        if not Path(path).is_file():
            raise FileNotFoundError(f'no file at {path}')
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.apis import init_detector
        from mmdet.utils import get_test_pipeline_cfg

        model = init_detector(str(config), str(checkpoint), device=device)
        names = require_weights(model, checkpoint)
        names = names or model.cfg.test_dataloader.dataset.get('metainfo', {}).get('classes')
        if names is None:
            raise ValueError(
                f'neither {checkpoint} nor the config names the classes; set metainfo of the test data set'
            )
        model.dataset_meta = dict(classes=tuple(names))
        return model, get_test_pipeline_cfg(model.cfg)


def require_weights(model: nn.Module, checkpoint: str | Path) -> tuple[str, ...] | None:
    """Refuse a checkpoint of another detector, of which MMDet only logs what is missing; names of its classes."""
    content = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    weights = {key.removeprefix('module.'): value for key, value in content.get('state_dict', content).items()}
    own = model.state_dict()
    wrong = [key for key, value in own.items() if getattr(weights.get(key), 'shape', None) != value.shape]
    if wrong:
        raise ValueError(
            f'{checkpoint} does not fit the detector: {len(wrong)} of {len(own)} weights are missing or of another '
            f'shape, such as {wrong[0]}'
        )
    return content.get('meta', {}).get('dataset_meta', {}).get('classes')


def detector_pipelines(steps: Sequence[dict]) -> tuple[Compose, Compose]:
    """A detector's test pipeline without annotations, once for image files and once for BGR arrays."""
    steps = [dict(step) for step in steps if 'LoadAnnotations' not in step['type']]
    if not steps or steps[0]['type'].split('.')[-1] != 'LoadImageFromFile':
        first = steps[0]['type'] if steps else 'nothing'
        raise ValueError(f"the detector's test pipeline begins with {first}, expected LoadImageFromFile")
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Compose(steps), Compose([dict(steps[0], type='mmdet.LoadImageFromNDArray'), *steps[1:]])


def find_objects(model: nn.Module, batch: Sequence[dict]) -> list[tuple[Tensor, Tensor, Tensor, tuple[int, int]]]:
    """Boxes (n, 4) xyxy, scores (n,), labels (n,) and (height, width) of images that went through the pipeline.

    Images of equal size go through the detector together: padding one to the size of another would change its scores,
    so that they hung on what else is in the batch.
    """
    groups: dict[tuple, list[int]] = {}
    for number, item in enumerate(batch):
        groups.setdefault(tuple(item['inputs'].shape), []).append(number)
    found: dict[int, tuple] = {}
    with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
        for numbers in groups.values():
            for number, result in zip(
                numbers, model.test_step(pseudo_collate([batch[n] for n in numbers])), strict=True
            ):
                f = result.pred_instances
                found[number] = (f.bboxes.cpu(), f.scores.cpu(), f.labels.cpu(), tuple(result.ori_shape[:2]))
    return [found[number] for number in range(len(batch))]


def keep_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], score_thr: float, max_per_image: int
) -> Found:
    """Clip boxes to the image, drop empty ones and low scores, keep the best-scored, rounded as they are stored."""
    height, width = size
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1) & (scores >= score_thr)
    boxes, scores, labels = boxes[keep].double(), scores[keep], labels[keep]
    order = scores.argsort(descending=True, stable=True)[:max_per_image]
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)[order].round(decimals=2)
    rows = zip(boxes.tolist(), scores[order].tolist(), labels[order].tolist(), strict=True)
    return Found([[*box, round(score, 5), label] for box, score, label in rows], height, width)


def find_in_tiles(
    model: nn.Module,
    pipeline: Compose,
    path: str | Path,
    tile: int,
    overlap: int,
    merge_iou: float,
    batch_size: int,
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Objects of a large image, found tile by tile and merged by non-maximum suppression within each class.

    What :func:`find_objects` gives, for the whole image. ``pipeline`` is the detector's one for arrays.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with open_image(path) as image:
        size = (image.height, image.width)
        for group in _groups(windows(*size, tile, overlap), batch_size):
            batch = [pipeline(dict(img=image.read(window), img_id=number)) for number, window in enumerate(group)]
            for window, (boxes, scores, labels, _) in zip(group, find_objects(model, batch), strict=True):
                corner = boxes.new_tensor([window.left, window.top, window.left, window.top])
                parts.append((boxes + corner, scores, labels))
    boxes, scores, labels = (torch.cat(values) for values in zip(*parts, strict=True))
    keep = batched_nms(boxes, scores, labels, merge_iou)
    return boxes[keep], scores[keep], labels[keep], size


def _groups(items: Iterator, size: int) -> Iterator[list]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def as_proposals(found: Found) -> dict:
    """Objects as the fields of a sample of :class:`galr_mm.ImageTextDataset`."""
    rows = np.asarray(found.rows, dtype=np.float64).reshape(-1, 6)
    rows[:, 2:4] += rows[:, :2]
    return dict(
        gt_bboxes=rows[:, :4].astype(np.float32),
        proposal_scores=rows[:, 4].astype(np.float32),
        gt_bboxes_labels=rows[:, 5].astype(np.int64),
        proposal_img_shape=(found.height, found.width),
    )
