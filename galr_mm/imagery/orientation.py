"""The eight orientations of EXIF and TIFF: how what is stored becomes upright."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# whether rows and columns are reversed, after rows and columns have changed places from 5 on
REVERSED = {
    1: (False, False),
    2: (False, True),
    3: (True, True),
    4: (True, False),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}


def swaps_sides(orientation: int) -> bool:
    """Whether height and width change places."""
    return orientation >= 5


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, ...) as it is to be seen; a view.

    >>> upright(np.array([[1, 2, 3], [4, 5, 6]]), 6)
    array([[4, 1],
           [5, 2],
           [6, 3]])
    """
    rows, columns = REVERSED[orientation]
    array = array.swapaxes(0, 1) if swaps_sides(orientation) else array
    return array[:: -1 if rows else 1, :: -1 if columns else 1]


def upright_boxes(boxes: np.ndarray, stored_size: Sequence[int], orientation: int) -> np.ndarray:
    """Boxes (n, 4) xyxy on the stored image, of (height, width), as boxes on the upright one.

    >>> upright_boxes(np.array([[0, 1, 1, 2]]), (2, 3), 6)
    array([[0, 0, 1, 1]])
    """
    height, width = stored_size
    x1, y1, x2, y2 = boxes.T
    if swaps_sides(orientation):
        x1, y1, x2, y2, height, width = y1, x1, y2, x2, width, height
    rows, columns = REVERSED[orientation]
    if columns:
        x1, x2 = width - x2, width - x1
    if rows:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)
