"""Where the windows of a scene are on Earth: polygons as GeoJSON (RFC 7946) wants them, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from galr_mm.archive.records import Footprint, wrapped
from galr_mm.imagery import Window
from galr_mm.integrations.gdal import to_degrees
from galr_mm.structures import Place

TOLERANCE = 0.5  # pixels that an edge may lie beside the true one
MOST_PARTS = 64  # of an edge
POLAR = 0.05  # least cosine of a latitude: at a pole a longitude still means something
DIGITS = 7  # of degrees: a centimeter
EQUATOR, SQUARED = 6_378_137.0, 0.00669437999014  # WGS84: radius in meters, squared eccentricity

Point = tuple[float, float]


def footprints(place: Place, windows: Sequence[Window]) -> list[Footprint | None]:
    """Footprints of the windows of a scene; None of one that is beyond what the coordinate reference system describes.

    An edge that is straight in the scene is a curve in degrees. It gets so many points, at most 64, that the polygon
    lies less than half a pixel beside it.

    Raises:
        ValueError: when the scene has no coordinate reference system, or one without relation to WGS84.
        ImportError: when rasterio is not installed; names the extra.
    """
    if place.crs is None:
        raise ValueError('the scene has no coordinate reference system')
    if not windows:
        return []
    parts = 1
    while True:
        fine = _degrees(place, _outlines(windows, 2 * parts))
        finite = np.isfinite(fine).all(axis=(1, 2))
        if parts >= MOST_PARTS or not finite.any() or _deviation(fine[finite], windows, parts) <= TOLERANCE:
            break
        parts *= 2
    return [footprint_of_ring(ring[::2]) if good else None for ring, good in zip(fine, finite, strict=True)]


def pixel_size(place: Place, height: int, width: int) -> float | None:
    """Meters that a pixel of a scene is wide, about: two digits; None where it has no place.

    Raises:
        ValueError, ImportError: as :func:`footprints`.
    """
    if place.crs is None:
        return None
    x, y = width / 3, height / 3  # a pole may be in the very middle
    corner, right, below = _degrees(place, np.array([[x, y], [x + 1, y], [x, y + 1]]))
    (a, b), (c, d) = (_short(end - corner) * _meters(corner[1]) for end in (right, below))
    side = math.sqrt(abs(a * d - b * c))
    return float(f'{side:.2g}') if math.isfinite(side) and side else None


def footprint_of_ring(points: Sequence[Sequence[float]]) -> Footprint:
    """A ring of longitudes and latitudes (n, 2), not closed, in either direction; it is cut at the antimeridian.

    A ring around a pole reaches to it.

    >>> footprint_of_ring([[179.0, 0.0], [181.0, 0.0], [181.0, 1.0], [179.0, 1.0]]).bounds
    (179.0, 0.0, -179.0, 1.0)
    """
    ring = [(float(points[0][0]), float(points[0][1]))]
    for longitude, latitude in points[1:]:
        ring.append((ring[-1][0] + math.remainder(longitude - ring[-1][0], 360), float(latitude)))
    first, last = ring[0], ring[-1]
    end = last[0] + math.remainder(first[0] - last[0], 360)
    if abs(end - first[0]) > 180:
        pole = math.copysign(90.0, sum(latitude for _, latitude in ring))
        ring += [(end, first[1]), (end, pole), (first[0], pole)]
    if _area(ring) < 0:
        ring.reverse()
    longitudes, latitudes = zip(*ring, strict=True)
    low, high = min(longitudes), max(longitudes)
    polygons = []
    for turn in range(math.floor((low + 180) / 360), math.floor((high + 180) / 360) + 1):
        part = ring
        if low < 360 * turn - 180 or high > 360 * turn + 180:
            part = _beside(_beside(ring, 360 * turn - 180, 1), 360 * turn + 180, -1)
        if _area(part) > 0:
            part = [(round(x - 360 * turn, DIGITS), round(y, DIGITS)) for x, y in part]
            polygons.append([[list(point) for point in (*part, part[0])]])
    west, east = (-180.0, 180.0) if high - low >= 360 else (wrapped(low), -wrapped(-high))
    geometry: dict[str, Any] = dict(type='MultiPolygon', coordinates=polygons)
    if len(polygons) == 1:
        geometry = dict(type='Polygon', coordinates=polygons[0])
    west, south, east, north = (round(value, DIGITS) for value in (west, min(latitudes), east, max(latitudes)))
    return Footprint((west, south, east, north), geometry)


def _outlines(windows: Sequence[Window], parts: int) -> np.ndarray:
    """Columns and rows of points on the edges of windows (n, 4 parts, 2), counterclockwise where north is up."""
    left, top, right, bottom = np.array(windows, float).T[:, :, None]
    along = np.arange(parts) / parts
    down, across = top + (bottom - top) * along, left + (right - left) * along
    x = np.hstack([left + 0 * along, across, right + 0 * along, left + right - across])
    y = np.hstack([down, bottom + 0 * along, top + bottom - down, top + 0 * along])
    return np.stack([x, y], axis=2)


def _degrees(place: Place, pixels: np.ndarray) -> np.ndarray:
    """Columns and rows (..., 2) -> longitudes and latitudes (..., 2)."""
    assert place.crs is not None
    a, b, c, d, e, f = place.transform
    x, y = pixels[..., 0].ravel(), pixels[..., 1].ravel()
    degrees = to_degrees(place.crs, a * x + b * y + c, d * x + e * y + f)
    return np.stack(degrees, axis=-1).reshape(pixels.shape)


def _deviation(fine: np.ndarray, windows: Sequence[Window], parts: int) -> float:
    """How many pixels the points between others lie beside the straight line, at most."""
    before, between = fine[:, ::2], fine[:, 1::2]
    after = np.roll(before, -1, axis=1)
    cosine = np.cos(np.deg2rad(between[..., 1])).clip(POLAR)
    scale = np.stack([cosine, np.ones_like(cosine)], axis=-1)
    lengths = np.linalg.norm(_short(after - before) * scale, axis=2)
    longest = max(max(window.right - window.left, window.bottom - window.top) for window in windows)
    pixel = lengths.max() * parts / longest
    beside = np.linalg.norm((_short(between - before) - _short(after - before) / 2) * scale, axis=2)
    return float(beside.max() / pixel) if pixel else 0.0


def _meters(latitude: float) -> np.ndarray:
    """Meters of a degree of longitude and of latitude, on the ellipsoid of WGS84."""
    angle = math.radians(latitude)
    flat = 1 - SQUARED * math.sin(angle) ** 2
    across, along = EQUATOR / math.sqrt(flat), EQUATOR * (1 - SQUARED) / flat**1.5
    return np.array([across * math.cos(angle), along]) * math.radians(1)


def _short(difference: np.ndarray) -> np.ndarray:
    """Differences of longitudes, or of longitudes and latitudes, the short way around."""
    return difference - 360 * (difference / 360).round()


def _beside(ring: Sequence[Point], longitude: float, sign: int) -> list[Point]:
    """The part of a ring east (1) or west (-1) of a meridian, cut along it."""
    kept: list[Point] = []
    for here, there in zip(ring, [*ring[1:], *ring[:1]], strict=True):
        d, e = sign * (here[0] - longitude), sign * (there[0] - longitude)
        if d >= 0:
            kept.append(here)
        if d * e < 0:
            kept.append((longitude, here[1] + (there[1] - here[1]) * d / (d - e)))
    return kept


def _area(ring: Sequence[Point]) -> float:
    """Signed area, positive where the ring is counterclockwise."""
    if len(ring) < 3:
        return 0.0
    x0, y0 = ring[0]
    pairs = zip(ring, [*ring[1:], *ring[:1]], strict=True)
    return sum((x - x0) * (v - y0) - (u - x0) * (y - y0) for (x, y), (u, v) in pairs) / 2
