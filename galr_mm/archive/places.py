"""Hits that are one place: tiles that overlap, of which the best stands for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from galr_mm.archive.records import Bounds, TileRecord
from galr_mm.imagery import Window

MERGES = ('tiles', 'places', 'none')
OVERLAP = 0.1  # of the smaller footprint, which those of two scenes of one place share at least


def kept_of(tiles: Sequence[TileRecord], merge: str) -> list[int]:
    """Indices of the tiles that are no part of the place of one before them.

    What is kept of the first tiles does not depend on those after them.

    Args:
        tiles: best first.
        merge: 'tiles' takes tiles of one file that share pixels for one place; 'places' also tiles of other files, such
            as the same ground on another day, whose footprints share a tenth of the smaller one; 'none' keeps all.
    """
    if merge == 'none':
        return list(range(len(tiles)))
    kept: list[int] = []
    windows: dict[bytes, list[Window]] = {}
    outlines: list[tuple[Bounds, list[np.ndarray]]] = []
    for index, tile in enumerate(tiles):
        own = windows.setdefault(tile.path, [])
        if any(_share_pixels(tile.window, other) for other in own):
            continue
        if merge == 'places' and tile.bounds is not None:
            outline = _polygons(tile)
            if any(_touch(tile.bounds, bounds) and _overlap(outline, other) for bounds, other in outlines):
                continue
            outlines.append((tile.bounds, outline))
        own.append(tile.window)
        kept.append(index)
    return kept


def _share_pixels(a: Window, b: Window) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom


def _touch(a: Bounds, b: Bounds) -> bool:
    """Whether bounds meet; those across the antimeridian are taken to go all around."""
    beside = a[0] <= a[2] and b[0] <= b[2] and (a[2] < b[0] or b[2] < a[0])
    return not beside and a[1] <= b[3] and b[1] <= a[3]


def _polygons(tile: TileRecord) -> list[np.ndarray]:
    geometry: dict[str, Any] = tile.geometry or {}
    parts = geometry['coordinates'] if geometry['type'] == 'MultiPolygon' else [geometry['coordinates']]
    return [np.array(part[0][:-1]) for part in parts]


def _overlap(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Whether they share a tenth of the smaller one. Footprints are convex but for what an edge bends."""
    origin = a[0][0]
    scale = max(np.ptp(ring, axis=0).max() for ring in (*a, *b)) or 1.0  # float32 is counted from here
    first, second = ([((ring - origin) / scale).astype(np.float32) for ring in rings] for rings in (a, b))
    shared = sum(cv2.intersectConvexConvex(one, other)[0] for one in first for other in second)
    smaller = min(sum(cv2.contourArea(ring) for ring in rings) for rings in (first, second))
    return shared > OVERLAP * smaller
