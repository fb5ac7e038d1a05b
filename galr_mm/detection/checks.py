"""Whether objects of another framework mean what COCO says: boxes xywh in pixels of their image, scores from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from galr_mm.messages import shorten

# a box that reaches further beyond its image, in sides of the image, speaks against the file, or is left out
SUSPICIOUS, ABSURD = 0.1, 1.0
# fractions from which on boxes are taken for another kind: that make sense as it, and that make none as xywh; of
# corners about half make none, and of xywh single ones that are wrong
MEANT, ONLY_AS_CORNERS = 0.9, 0.3
BULK = 0.95  # fraction of boxes that speaks for a file, whatever single ones are
RELATIVE = 1.1  # largest value of relative boxes, of which some leave their image a little


def number(value: object) -> float:
    """A number of a json.

    Raises:
        TypeError: for what is none, such as a text or true.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{shorten(value)} is not a number')
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_box(annotation: Mapping[str, Any]) -> list[float]:
    """The bbox of an annotation.

    Raises:
        TypeError, ValueError: when it is not four numbers.
    """
    bbox = annotation.get('bbox')
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise ValueError(f'bbox is {shorten(bbox)}, expected [x, y, width, height]')
    return [number(value) for value in bbox]


def look_up(table: Mapping[Hashable, Any], annotation: Mapping[str, Any], key: str) -> Any:
    """What an annotation's image_id or category_id stands for.

    Raises:
        ValueError: when it is not an id that is listed.
    """
    value = annotation.get(key)
    if isinstance(value, (bool, list, dict)) or value not in table:
        raise ValueError(f'{key} is {shorten(value)}, which is not listed')
    return table[value]


def reason_to_ignore(annotation: Mapping[str, Any]) -> str | None:
    """Why COCO does not count an annotation as an object.

    Raises:
        TypeError: when the annotation is none.
        ValueError: when iscrowd or ignore is neither 0 nor 1, nor null, which says nothing.
    """
    if not isinstance(annotation, dict):
        raise TypeError('it has no fields')
    for key, reason in (('iscrowd', 'crowd (iscrowd)'), ('ignore', 'to be ignored (ignore)')):
        flag = annotation.get(key)
        if flag is not None and (not isinstance(flag, (int, float)) or flag not in (0, 1)):
            raise ValueError(f'{key} is {shorten(flag)}, expected 0 or 1')
        if flag:
            return reason
    return None


def reason_to_drop(row: Sequence[float]) -> str | None:
    """Why a row [x, y, width, height, score, ...] is no object."""
    if not all(map(math.isfinite, row)):
        return 'with NaN or infinite values'
    return 'with an empty box' if min(row[2:4]) <= 0 else None


def check_scores(scores: np.ndarray, indices: np.ndarray, kind: str) -> None:
    """Raise ValueError where finite scores (n,) are not from 0 to 1; names the first by its index."""
    wrong = (scores < 0) | (scores > 1 + 1e-6)
    if not wrong.any():
        return
    low, high = scores.min(), scores.max()
    hint = 'logits? apply the sigmoid' if low < 0 else 'percent? divide by 100' if high <= 100 else 'normalize them'
    raise ValueError(
        f'{kind} {indices[wrong][0]} has the score {scores[wrong][0]:g}, expected 0 to 1; the scores of the file go '
        f'from {low:g} to {high:g} ({hint})'
    )


def check_boxes(boxes: np.ndarray, sizes: np.ndarray, indices: np.ndarray, kind: str) -> tuple[np.ndarray, list[str]]:
    """Find out whether the boxes of a file are xywh in pixels of their images.

    Args:
        boxes: (n, 4) that are finite and not empty.
        sizes: (n, 2), width and height of the image of each.
        indices: (n,) of the annotations in their file.
        kind: what they are called.

    Returns:
        bool (n,), the boxes that are on their image, and what is suspicious.

    Raises:
        ValueError: when they are corners, relative to the image, or on images of another size.
    """
    if not len(boxes):
        return np.ones(0, bool), []
    with np.errstate(over='ignore'):
        low, high = boxes[:, :2] / sizes, (boxes[:, :2] + boxes[:, 2:]) / sizes
    outside = (low >= 1).any(1) | (high <= 0).any(1) | (low < -ABSURD).any(1) | (high > 1 + ABSURD).any(1)
    leaving = ((low < -SUSPICIOUS) | (high > 1 + SUSPICIOUS)).any(1)
    end = boxes[:, 2:] / sizes
    corners = (low >= -SUSPICIOUS).all(1) & (end > low).all(1) & (end <= 1 + SUSPICIOUS).all(1)
    starts_inside = (low < 1).all(1)

    def example(where: np.ndarray) -> str:
        first = np.flatnonzero(where)[0]
        width, height = sizes[first]
        values = ', '.join(f'{value:g}' for value in boxes[first])
        return f'{kind} {indices[first]} has the bbox [{values}] in an image of {width:g} x {height:g} pixels'

    expected = 'expected [x, y, width, height] in pixels of the image'
    relative = np.asarray(np.hstack([boxes <= RELATIVE, sizes > 2 * RELATIVE]).all(1))
    if relative.mean() >= BULK and (boxes[relative] % 1).any():  # [0, 0, 1, 1] is a pixel
        many = 'no value of the file is' if boxes.max() <= 1 else f'{(boxes <= 1).mean():.0%} of the values are not'
        raise ValueError(f'{example(relative)}, and {many} above 1 (relative?); {expected}')
    telling = leaving & corners
    if telling.sum() >= ONLY_AS_CORNERS * starts_inside.sum() > 0 and corners[starts_inside].mean() >= MEANT:
        raise ValueError(
            f'{example(telling)}, which {telling.sum()} boxes leave; {corners.sum()} of {len(boxes)} boxes make sense '
            f'as corners [x1, y1, x2, y2]; {expected}'
        )
    if (leaving | outside).mean() > 0.5:
        raise ValueError(
            f'{example(leaving | outside)}, and so do {(leaving | outside).sum()} of {len(boxes)} boxes leave theirs '
            f'(for images of another size?); {expected}'
        )
    notes = []
    beyond = ((high - 1) * sizes > 2).any(1) & ~outside  # by more than rounding
    if _are_centers(boxes, sizes, beyond):
        notes.append(
            f'{beyond.sum()} of {len(boxes)} boxes leave their image on the right or below, and as [x, y, width, '
            f'height] around a center (x, y) almost all are inside; are they such? {example(beyond)}'
        )
    elif (leaving & ~outside).any():
        found = leaving & ~outside
        notes.append(f'{found.sum()} boxes reach more than a tenth of its side beyond their image; {example(found)}')
    percent = boxes.max() <= 100 and sizes.min() >= 200
    if len(boxes) >= (3 if percent else 10) and (high < 0.5).all():
        notes.append(
            f'all {len(boxes)} boxes are in the upper left quarter of their images; are they for images of another '
            f'size{", or in percent" if percent else ""}?'
        )
    return ~outside, notes


def _are_centers(boxes: np.ndarray, sizes: np.ndarray, beyond: np.ndarray) -> bool:
    """Whether boxes (n, 4), of which some reach ``beyond`` their image, are rather [cx, cy, width, height].

    Boxes xywh that begin at the left or above, nearer to the border than half their side, speak against it.
    """
    half = boxes[:, 2:] / 2
    inside = ((boxes[:, :2] - half >= -2) & (boxes[:, :2] + half <= sizes + 2)).all(1)
    return bool(len(boxes) >= 3 and beyond.mean() >= 1 - BULK and inside.mean() >= BULK)
