"""The eight symmetries of a square (the dihedral group D4): quarter turns, and the same after a flip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from galr_mm.registry import TRANSFORMS

# name -> clockwise quarter turns, and whether a horizontal flip follows
VIEWS = {
    'identity': (0, False),
    'rot90': (1, False),
    'rot180': (2, False),
    'rot270': (3, False),
    'hflip': (0, True),
    'transpose': (1, True),
    'vflip': (2, True),
    'transverse': (3, True),
}


def view_image(image: np.ndarray, view: str) -> np.ndarray:
    """An image (H, W, ...) seen as ``view`` says, one of ``VIEWS``; quarter turns swap height and width."""
    turns, flip = VIEWS[view]
    image = np.rot90(image, -turns)
    return image[:, ::-1] if flip else image


def view_boxes(boxes: np.ndarray, view: str, img_shape: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) xyxy of an image of ``img_shape`` (height, width), in its ``view``.

    >>> view_boxes(np.array([[1.0, 2.0, 3.0, 5.0]]), 'rot90', img_shape=(10, 20))
    array([[5., 1., 8., 3.]])
    """
    turns, flip = VIEWS[view]
    height, width = img_shape
    for _ in range(turns):  # clockwise: (x, y) -> (height - y, x)
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([height - y2, x1, height - y1, x2], axis=1)
        height, width = width, height
    if flip:
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
    return boxes


def check_views(views: Sequence[str]) -> tuple[str, ...]:
    """The names of views as a tuple.

    Raises:
        ValueError: when there is none, or an unknown one, or one twice.
    """
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views or len(set(views)) < len(views):
        raise ValueError(f'views is {list(views)}, expected different ones of {", ".join(VIEWS)}')
    return tuple(views)


class ViewTransform(BaseTransform):
    """What draws a view and moves the boxes along.

    Args:
        views: names of :data:`VIEWS`, drawn with equal chances.
    """

    def __init__(self, views: Sequence[str] = tuple(VIEWS)) -> None:
        self.views = check_views(views)

    @cache_randomness
    def draw_view(self) -> str:
        """The view of the next sample."""
        return self.views[np.random.randint(len(self.views))]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(views={self.views})'


def move_boxes(results: dict, view: str) -> None:
    """Bring ``gt_bboxes`` and ``img_shape`` of a sample to a view of its image."""
    shape = results['img_shape'][:2]
    if 'gt_bboxes' in results:
        results['gt_bboxes'] = view_boxes(results['gt_bboxes'], view, shape).astype(np.float32)
    results['img_shape'] = shape[::-1] if VIEWS[view][0] % 2 else shape


@TRANSFORMS.register_module()
class RandomD4(ViewTransform):
    """Rotate by a random number of quarter turns and flip, or not: seen from above, no view is the wrong one.

    Nothing is resampled, so features of all views can be cached (``tools/cache_features.py``).

    Required Keys:

    - img
    - gt_bboxes (optional)

    Modified Keys: the same, and img_shape.

    Args:
        views: names of :data:`VIEWS`, drawn with equal chances; by default all eight.
    """

    def transform(self, results: dict) -> dict:
        """Turn one image and its boxes."""
        view = self.draw_view()
        results['img_shape'] = results['img'].shape[:2]
        results['img'] = np.ascontiguousarray(view_image(results['img'], view))
        move_boxes(results, view)
        return results
