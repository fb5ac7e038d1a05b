"""Geometric augmentations that mmcv lacks; like mmcv's own, they move ``gt_bboxes`` along with the image."""

from __future__ import annotations

import math

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from galr_mm.registry import TRANSFORMS

# what goes with a box, here and in mmdet's pipelines
BOX_KEYS = ('gt_bboxes', 'gt_bboxes_labels', 'proposal_scores', 'gt_ignore_flags')


def rotate_boxes(boxes: np.ndarray, angle: float, img_shape: tuple[int, int]) -> np.ndarray:
    """Axis-aligned hulls of boxes (n, 4) xyxy after a clockwise rotation by ``angle`` degrees about the center."""
    height, width = img_shape
    # the same center and direction as mmcv.imrotate
    center = np.array([(width - 1) * 0.5, (height - 1) * 0.5], dtype=np.float32)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) - center
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rotated = corners @ np.array([[cos, sin], [-sin, cos]], dtype=np.float32) + center
    return np.concatenate([rotated.min(1), rotated.max(1)], axis=1).astype(np.float32)


def keep_visible_boxes(results: dict, boxes: np.ndarray, min_visible: float) -> None:
    """Clip ``boxes`` (n, 4) to the image and drop those of which less than a fraction ``min_visible`` is left."""
    height, width = results['img_shape']
    clipped = boxes.copy()
    clipped[:, 0::2] = clipped[:, 0::2].clip(0, width)
    clipped[:, 1::2] = clipped[:, 1::2].clip(0, height)
    left, before = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (clipped, boxes))
    keep = (left > 0) & (left >= min_visible * before)
    results['gt_bboxes'] = clipped
    for key in BOX_KEYS:
        if key in results:
            results[key] = results[key][keep]


@TRANSFORMS.register_module()
class RandomRotate(BaseTransform):
    """Rotate the image clockwise by a random angle about its center; its size stays, corners are filled.

    Required Keys:

    - img
    - gt_bboxes, gt_bboxes_labels, proposal_scores (optional)

    Modified Keys: the same.

    Args:
        angle_range: smallest and largest angle in degrees.
        min_visible: drop boxes of which a smaller fraction of the area stays in the image.
    """

    def __init__(self, angle_range: tuple[float, float] = (0, 90), min_visible: float = 0.25) -> None:
        low, high = angle_range
        if low > high:
            raise ValueError(f'angle_range is {angle_range}, expected (smallest, largest)')
        self.angle_range = (low, high)
        self.min_visible = min_visible

    @cache_randomness
    def _draw_angle(self) -> float:
        return float(np.random.uniform(*self.angle_range))

    def transform(self, results: dict) -> dict:
        """Rotate one image and its boxes."""
        angle = self._draw_angle()
        shape = results['img'].shape[:2]
        results['img'] = mmcv.imrotate(results['img'], angle)
        results['img_shape'] = shape
        if 'gt_bboxes' in results:
            keep_visible_boxes(results, rotate_boxes(results['gt_bboxes'], angle, shape), self.min_visible)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(angle_range={self.angle_range}, min_visible={self.min_visible})'


@TRANSFORMS.register_module()
class RandomCrop(BaseTransform):
    """Cut a random window of a given size; an image that is smaller is padded with zeros at the right and bottom.

    Required Keys:

    - img
    - gt_bboxes, gt_bboxes_labels, proposal_scores (optional)

    Modified Keys: the same, and img_shape.

    Args:
        crop_size: height and width, or one value for both.
        min_visible: drop boxes of which a smaller fraction of the area stays in the image.
    """

    def __init__(self, crop_size: int | tuple[int, int], min_visible: float = 0.25) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise ValueError(f'crop_size is {crop_size}, expected a positive integer or (height, width)')
        self.min_visible = min_visible

    @cache_randomness
    def _draw_corner(self, height: int, width: int) -> tuple[int, int]:
        target_h, target_w = self.crop_size
        return np.random.randint(height - target_h + 1), np.random.randint(width - target_w + 1)

    def transform(self, results: dict) -> dict:
        """Crop one image and its boxes."""
        img, (target_h, target_w) = results['img'], self.crop_size
        if img.shape[0] < target_h or img.shape[1] < target_w:
            img = mmcv.impad(img, shape=(max(target_h, img.shape[0]), max(target_w, img.shape[1])))
        top, left = self._draw_corner(*img.shape[:2])
        results['img'] = img[top : top + target_h, left : left + target_w]
        results['img_shape'] = self.crop_size
        if 'gt_bboxes' in results:
            moved = results['gt_bboxes'] - np.array([left, top, left, top], dtype=np.float32)
            keep_visible_boxes(results, moved, self.min_visible)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size}, min_visible={self.min_visible})'
