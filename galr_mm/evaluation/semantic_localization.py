"""Indicators of semantic localization: how well a map says where in a scene a sentence is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Regions = Sequence[npt.ArrayLike]  # polygons, each points (n, 2) as x, y in pixels

SMOOTHING = 50, 5  # side of the box filter, and how often it runs
PEAK_WINDOW = 1000  # a peak is the highest in a square of this side
PEAK_FLOOR = 0.5
RADIUS_FACTOR = 1.5


class Circle(NamedTuple):
    """What stands for a region where distances are taken."""

    x: int
    y: int
    radius: int


def semantic_localization_metrics(prob: npt.ArrayLike, regions: Regions) -> dict[str, float]:
    r"""Rsu, Ras, Rda and Rmi of one map, with the numbers of the published script.

    With the map p, the mask m of the H x W pixels inside the regions and, for each region, a circle (center: the mean
    of its points; radius r: 1.5 times their mean distance to it; both cut to integers):

    .. math::
        R_{su} &= 1 - \exp\left(-0.707 \frac{\sum p m}{\sum p - \sum p m} \cdot \frac{HW - \sum m}{\sum m}\right) \\
        R_{as} &= \frac{e^{3g} - 1}{e^3 - 1} \\
        R_{mi} &= 0.4 R_{su} + 0.35 (1 - R_{as}) + 0.25 R_{da}

    g is the mean over the regions of d / r, where d is the mean distance from the center to the peaks of the map
    within the circle, r where there is none. Rda is the mean over the regions of 0 without a peak in the circle, 1 with
    one, and with n of them :math:`0.5 (1 - s / r) + \exp(-0.5 (n + 2))`, where s is their mean distance to their mean.
    Peaks are found on the map in 8 bits, smoothed by five box filters of 50 px: what is highest in a square of 1,000 px
    and not 0, as far as the map itself is 0.5 or more there.

    Higher is better but for Ras. The indicators need a baseline beside them: a map of ones has an Rsu of 0.507 and,
    where its center is a hit, an Rda of 1. As published, the mask has a hole where two regions overlap, and a region
    that lies outside the map counts as missed.

    Args:
        prob: likelihood in 0..1; of an 8-bit map, its values over 255.
        regions: polygons of points (x, y) in pixels; parts outside the map do not count.

    Shapes:
        - prob: (H, W)
        - regions: each (n, 2)

    Returns:
        ``rsu``, ``ras``, ``rda``, ``rmi``.

    Raises:
        ValueError: when the map is not 2-D, is empty or leaves 0..1; when there is no region, one is not a list of
            points or is a single spot, or none covers a pixel of the map.

    Source: Yuan et al., Learning to Evaluate Performance of Multi-modal Semantic Localization, TGRS 2022, and its code.

    >>> map_ = np.zeros((400, 600))
    >>> map_[100:300, 100:300] = 1
    >>> metrics = semantic_localization_metrics(map_, [[(100, 100), (299, 100), (299, 299), (100, 299)]])
    >>> {name: round(value, 3) for name, value in metrics.items()}
    {'rsu': 1.0, 'ras': 0.003, 'rda': 1.0, 'rmi': 0.999}
    """
    prob = _checked_map(prob)
    polygons = [_checked_region(region, index) for index, region in enumerate(regions)]
    if not polygons:
        raise ValueError('no region: the indicators compare a map with at least one')
    rsu = _salient_area(prob, polygons)
    peaks = find_peaks(prob)
    offsets, discreteness = [], []
    for index, circle in enumerate(map(_circle, polygons)):
        if not circle.radius and (len(peaks) or not index):  # without a peak the script looks at the first alone
            raise ValueError(f'regions[{index}] is a spot at {circle[:2]}: its points are within a pixel of their mean')
        distances = np.linalg.norm(peaks - np.array(circle[:2]), axis=1)
        inside = distances <= circle.radius
        offsets.append(distances[inside].mean() / circle.radius if inside.any() else 1.0)
        discreteness.append(_concentration(peaks[inside], circle.radius))
    ras = float(np.expm1(3 * np.mean(offsets)) / np.expm1(3))
    rda = float(np.mean(discreteness))
    return dict(rsu=rsu, ras=ras, rda=rda, rmi=0.4 * rsu + 0.35 * (1 - ras) + 0.25 * rda)


def find_peaks(prob: np.ndarray) -> np.ndarray:
    """Peaks of a map in 0..1 as the indicators count them, (n, 2) integers x, y."""
    gray: np.ndarray = (prob * 255).astype(np.uint8)
    side, times = SMOOTHING
    for _ in range(times):
        gray = cv2.boxFilter(gray, -1, (side, side))
    highest = _sliding_max(_sliding_max(gray, PEAK_WINDOW, 0), PEAK_WINDOW, 1)
    tops = ((gray == highest) & (gray > 0)).astype(np.uint8)
    count, _, _, centroids = cv2.connectedComponentsWithStats(tops, connectivity=8)
    centers = centroids[1:count].astype(int)  # the first is the background
    return centers[prob[centers[:, 1], centers[:, 0]] >= PEAK_FLOOR]


def _sliding_max(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Maximum over positions i - size // 2 ... i + size - size // 2 - 1 of an axis, by doubling the window."""
    array = np.moveaxis(array, axis, 0)
    length = len(array)
    padded = np.zeros((length + size - 1, *array.shape[1:]), array.dtype)
    padded[size // 2 : size // 2 + length] = array
    width = 1
    while 2 * width <= size:
        np.maximum(padded[:-width], padded[width:], out=padded[:-width])
        width *= 2
    return np.moveaxis(np.maximum(padded[:length], padded[size - width : size - width + length]), 0, axis)


def _salient_area(prob: np.ndarray, polygons: list[np.ndarray]) -> float:
    mask = np.zeros(prob.shape, np.uint8)
    cv2.fillPoly(mask, [polygon.astype(np.int32) for polygon in polygons], 1)
    area = np.count_nonzero(mask)
    if not area:
        height, width = prob.shape
        raise ValueError(f'no pixel of the map ({width} x {height}) is in one of the {len(polygons)} regions')
    within = prob[mask.astype(bool)].sum(dtype=np.float64)
    total = prob.sum(dtype=np.float64)
    return float(-np.expm1(-0.707 * within / (total - within + 1e-7) * (mask.size - area) / area))


def _concentration(peaks: np.ndarray, radius: int) -> float:
    count = len(peaks)
    if count < 2:
        return float(count)
    spread = np.linalg.norm(peaks - peaks.mean(axis=0), axis=1).mean() / radius
    return 0.5 * (1 - spread) + np.exp(-0.5 * (count + 2))


def _circle(polygon: np.ndarray) -> Circle:
    x, y = (int(total / len(polygon)) for total in np.cumsum(polygon, axis=0)[-1])  # added one by one, as published
    return Circle(x, y, int(np.mean([np.linalg.norm(point - (x, y)) for point in polygon]) * RADIUS_FACTOR))


def _checked_map(prob: npt.ArrayLike) -> np.ndarray:
    checked = np.asarray(prob)
    if checked.dtype not in (np.float32, np.float64):
        checked = checked.astype(np.float64)
    if checked.ndim != 2 or not checked.size:
        raise ValueError(f'the map has the shape {checked.shape}, expected (H, W)')
    low, high = checked.min(), checked.max()
    if not 0 <= low <= high <= 1:
        raise ValueError(f'the map has values from {low:.6g} to {high:.6g}, expected 0..1 (an 8-bit map over 255)')
    return checked


def _checked_region(region: npt.ArrayLike, index: int) -> np.ndarray:
    try:
        points = np.asarray(region, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'regions[{index}] is not a list of points (x, y): {str(error)[:200]}') from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f'regions[{index}] has the shape {points.shape}, expected points (x, y): (n, 2)')
    if not (np.abs(points) < 2**31).all():
        raise ValueError(f'regions[{index}] has a coordinate that is not finite or beyond 2^31')
    return points
