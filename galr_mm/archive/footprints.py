"""Where the windows of a scene are on Earth: polygons as GeoJSON (RFC 7946) wants them, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from galr_mm.archive.records import Footprint, footprint_of, wrapped
from galr_mm.imagery import Window
from galr_mm.integrations.gdal import from_degrees, to_degrees
from galr_mm.structures import Place

TOLERANCE = 0.5  # pixels that an edge may lie beside the true one
MOST_PARTS = 64  # of an edge
POLAR = 0.05  # least cosine of a latitude: at a pole a longitude still means something
LONGEST_STEP = 120.0  # degrees of longitude between two points
NEAR = 1e-3  # pixels between a pole and an edge that it lies on
MERIDIANS = (0.0, 120.0, -120.0)
EARTH = (-180.0, -90.0, 180.0, 90.0)
DIGITS = 7  # of degrees: a centimeter
EQUATOR, SQUARED = 6_378_137.0, 0.00669437999014  # WGS84: radius in meters, squared eccentricity

Point = tuple[float, float]


def footprints(place: Place, windows: Sequence[Window]) -> list[Footprint | None]:
    """Footprints of the windows of a scene; None of one that is beyond what the coordinate reference system describes.

    An edge that is straight in the scene is a curve in degrees. It gets so many points, at most 64, that the polygon
    lies less than half a pixel beside it. A window with a pole on an edge or a corner lies between the meridians along
    which its edges leave the pole; one with a pole inside lies all around.

    Raises:
        ValueError: when the scene has no coordinate reference system, or one without relation to WGS84.
        ImportError: when rasterio is not installed; names the extra.
    """
    if place.crs is None:
        raise ValueError('the scene has no coordinate reference system')
    found: list[Footprint | None] = [None] * len(windows)
    poles = _poles(place) if windows else []
    left, parts = list(range(len(windows))), 1
    while left:
        outlines = _outlines([windows[index] for index in left], 2 * parts)
        fine = _on_earth(_degrees_of_each(place, outlines), place)
        with np.errstate(invalid='ignore'):  # of windows beyond the Earth
            fits = _fits([windows[index] for index in left], fine, parts)
        later = []
        for index, outline, ring, good in zip(left, outlines[:, ::2], fine[:, ::2], fits, strict=True):
            if not np.isfinite(ring).all():
                continue
            if not good and parts < MOST_PARTS:
                later.append(index)
                continue
            if not good:
                outline, ring = _with_nearest(place, windows[index], outline, ring, poles)
            found[index] = _footprint(windows[index], outline, ring, poles)
        left = later
        parts *= 2
    return found


def pixel_size(place: Place, height: int, width: int) -> float | None:
    """Meters that a pixel of a scene is wide, about: two digits; None where it has no place there.

    Raises:
        ImportError: as :func:`footprints`.
    """
    if place.crs is None:
        return None
    x, y = width / 3, height / 3  # a pole may be in the very middle
    try:
        points = _on_earth(_degrees(place, np.array([[x, y], [x + 1, y], [x, y + 1]])), place)
    except ValueError:  # the middle is beyond what is described, though other parts may not be
        return None
    if not np.isfinite(points).all():
        return None
    corner, right, below = points
    (a, b), (c, d) = (_short(end - corner) * _meters(corner[1]) for end in (right, below))
    side = math.sqrt(abs(a * d - b * c))
    return float(f'{side:.2g}') if math.isfinite(side) and side else None


def footprint_of_ring(points: Sequence[Sequence[float]], pole: float | None = None) -> Footprint | None:
    """A ring of longitudes and latitudes (n, 2), not closed, in either direction; it is cut at the antimeridian.

    Args:
        points: two that follow each other are less than 180 degrees of longitude apart.
        pole: latitude of the pole that a ring around one reaches to; None takes the nearer one.

    Returns:
        None for a ring without an area.

    >>> footprint_of_ring([[179.0, 0.0], [181.0, 0.0], [181.0, 1.0], [179.0, 1.0]]).bounds
    (179.0, 0.0, -179.0, 1.0)
    """
    ring = _unwrapped(points)
    turn = ring[-1][0] + math.remainder(ring[0][0] - ring[-1][0], 360) - ring[0][0]
    if abs(turn) < 180:
        return _cut(ring)
    return _around(ring if turn > 0 else ring[::-1], pole or math.copysign(90.0, sum(y for _, y in ring)))


def _unwrapped(points: Sequence[Sequence[float]]) -> list[Point]:
    """Points (n, 2) whose longitudes go on beyond 180 degrees, each the short way from the one before."""
    ring = [(float(points[0][0]), float(points[0][1]))]
    for longitude, latitude in points[1:]:
        ring.append((ring[-1][0] + math.remainder(longitude - ring[-1][0], 360), float(latitude)))
    return ring


def _around(ring: Sequence[Point], pole: float) -> Footprint | None:
    """What lies between a ring that goes east all around the Earth, and a pole: from -180 to 180 degrees."""
    cut = 360 * math.ceil((ring[0][0] - 180) / 360) + 180  # the antimeridian that the ring meets first
    ahead = [*ring, (ring[0][0] + 360, ring[0][1])]
    index = max(index for index, (x, _) in enumerate(ahead[:-1]) if x <= cut)
    (x, y), (u, v) = ahead[index : index + 2]
    latitude = y + (v - y) * (cut - x) / (u - x) if u != x else y
    turned = [*ring[index + 1 :], *((x + 360, y) for x, y in ring[: index + 1])]
    edge = [(-180.0, latitude), *((min(max(x - cut - 180, -180.0), 180.0), y) for x, y in turned), (180.0, latitude)]
    return _cut([*edge, (180.0, pole), (-180.0, pole)])


def _cut(ring: Sequence[Point]) -> Footprint | None:
    """A ring whose longitudes go on beyond 180 degrees, as parts between -180 and 180."""
    ring = _tidy(ring)
    if _area(ring) < 0:
        ring = ring[::-1]
    if not _area(ring):
        return None
    longitudes, latitudes = zip(*ring, strict=True)
    low, high, south, north = min(longitudes), max(longitudes), min(latitudes), max(latitudes)
    if high - low >= 360:
        whole = (-180.0, south, 180.0, north)
        return Footprint(whole, footprint_of(whole) if low < -180 or high > 180 else _geometry([ring]))
    parts = []
    for turn in range(math.floor((low + 180) / 360), math.floor((high + 180) / 360) + 1):
        part = ring
        if low < 360 * turn - 180 or high > 360 * turn + 180:
            part = _beside(_beside(ring, 360 * turn - 180, 1), 360 * turn + 180, -1)
        part = _tidy([(x - 360 * turn, y) for x, y in part])
        if _area(part) > 0:
            parts.append(part)
    west, east = (round(longitude, DIGITS) for longitude in (wrapped(low), -wrapped(-high)))
    return Footprint((west, south, east, north), _geometry(parts))


def _tidy(ring: Sequence[Point]) -> list[Point]:
    """Points in so many digits as are written, none twice in a row."""
    rounded = [(round(x, DIGITS), round(y, DIGITS)) for x, y in ring]
    return [point for point, before in zip(rounded, [*rounded[-1:], *rounded[:-1]], strict=True) if point != before]


def _geometry(rings: Sequence[Sequence[Point]]) -> dict[str, Any]:
    polygons = [[[list(point) for point in (*ring, ring[0])]] for ring in rings]
    if len(polygons) == 1:
        return dict(type='Polygon', coordinates=polygons[0])
    return dict(type='MultiPolygon', coordinates=polygons)


def _footprint(
    window: Window, outline: np.ndarray, ring: np.ndarray, poles: Sequence[tuple[Point, float]]
) -> Footprint | None:
    """The footprint of a window, None where it has no area.

    Args:
        window: in pixels of the scene.
        outline: points on its edges in pixels, float (n, 2), counterclockwise where north is up.
        ring: the same as longitudes and latitudes.
        poles: that are points of the scene, see :func:`_poles`.
    """
    inside = [latitude for point, latitude in poles if _holds(window, point, -NEAR)]
    if len(inside) == 2:
        return Footprint(EARTH, footprint_of(EARTH))
    if inside:
        return footprint_of_ring(ring.tolist(), inside[0])
    for point, latitude in poles:
        if _holds(window, point, NEAR):
            chain = _unwrapped(ring[_after(outline, point)].tolist())
            return _cut([(chain[0][0], latitude), *chain, (chain[-1][0], latitude)])
    return footprint_of_ring(ring.tolist())


def _holds(window: Window, point: Point, margin: float) -> bool:
    """Whether a window that grows by a margin holds a point, in pixels."""
    return (
        window.left - margin < point[0] < window.right + margin
        and window.top - margin < point[1] < window.bottom + margin
    )


def _with_nearest(
    place: Place, window: Window, outline: np.ndarray, ring: np.ndarray, poles: Sequence[tuple[Point, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Outline and ring of a window with the points that are nearest to poles outside, where latitudes are extreme."""
    for point, _ in poles:
        if not _holds(window, point, NEAR):
            nearest = np.clip(point, window[:2], window[2:])
            degrees = _degrees(place, nearest)
            if np.isfinite(degrees).all() and np.linalg.norm(outline - nearest, axis=1).min() > NEAR:
                at = _edge_of(outline, nearest) + 1
                outline, ring = np.insert(outline, at, nearest, axis=0), np.insert(ring, at, degrees, axis=0)
    return outline, ring


def _edge_of(outline: np.ndarray, point: Sequence[float] | np.ndarray) -> int:
    """Index of the point of an outline (n, 2) behind which the edge begins that is nearest to a point."""
    ahead, offset = np.roll(outline, -1, axis=0) - outline, np.array(point) - outline
    along = ((offset * ahead).sum(axis=1) / (ahead**2).sum(axis=1)).clip(0, 1)
    return int(np.linalg.norm(offset - along[:, None] * ahead, axis=1).argmin())


def _after(outline: np.ndarray, point: Point) -> np.ndarray:
    """Indices of the points of an outline (n, 2) once around, from behind a point on it to before it, without it."""
    order = np.roll(np.arange(len(outline)), -_edge_of(outline, point) - 1)
    return order[np.linalg.norm(outline - point, axis=1)[order] > 2 * NEAR]


def _poles(place: Place) -> list[tuple[Point, float]]:
    """The poles that are one point of a scene, as its column and row, and the latitude; not those that are a line."""
    assert place.crs is not None
    a, b, c, d, e, f = place.transform
    poles: list[tuple[Point, float]] = []
    if a * e == b * d:
        return poles
    for latitude in (90.0, -90.0):
        try:
            x, y = from_degrees(place.crs, MERIDIANS, [latitude] * len(MERIDIANS))
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                continue
            points = np.linalg.solve([[a, b], [d, e]], [x - c, y - f]).T
            back = _degrees(place, points)[:, 1]
        except ValueError:  # beyond what is described
            continue
        if np.ptp(points, axis=0).max() < NEAR and np.abs(back - latitude).max() < 1e-6:
            poles.append(((float(points[0, 0]), float(points[0, 1])), latitude))
    return poles


def _on_earth(degrees: np.ndarray, place: Place) -> np.ndarray:
    """Longitudes and latitudes (..., 2), NaN where a latitude is more than a pixel beyond a pole.

    Grids whose values are at the centers of pixels reach half a pixel beyond; they end at the pole.
    """
    pixel = max(abs(place.transform[3]), abs(place.transform[4]))
    latitudes = degrees[..., 1]
    latitudes = np.where(np.abs(latitudes) > 90 + pixel, np.nan, latitudes.clip(-90, 90))
    return np.stack([degrees[..., 0], latitudes], axis=-1)


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


def _degrees_of_each(place: Place, outlines: np.ndarray) -> np.ndarray:
    """:func:`_degrees` of outlines (n, m, 2), where some may leave what is described: these are not finite then.

    Raises:
        ValueError: when none is described.
    """
    try:
        return _degrees(place, outlines)
    except ValueError:
        if len(outlines) == 1:
            raise
    degrees, error = np.full(outlines.shape, np.nan), None
    for own, outline in zip(degrees, outlines, strict=True):
        try:
            own[:] = _degrees(place, outline)
        except ValueError as beyond:
            error = beyond
    if error is not None and not np.isfinite(degrees).any():
        raise error
    return degrees


def _fits(windows: Sequence[Window], fine: np.ndarray, parts: int) -> np.ndarray:
    """Of which windows every second point (n, 8 parts, 2) is enough, bool (n,).

    The points between lie less than half a pixel beside the straight line, and no step is so long that the other way
    around the Earth might be meant.
    """
    before, between = fine[:, ::2], fine[:, 1::2]
    after = np.roll(before, -1, axis=1)
    cosine = np.cos(np.deg2rad(between[..., 1])).clip(POLAR)
    scale = np.stack([cosine, np.ones_like(cosine)], axis=-1)
    step = _short(after - before)
    longest = np.array([max(w.right - w.left, w.bottom - w.top) for w in windows])
    pixel = np.linalg.norm(step * scale, axis=2).max(axis=1) * parts / longest
    beside = np.linalg.norm((_short(between - before) - step / 2) * scale, axis=2).max(axis=1)
    return (beside <= TOLERANCE * pixel) & (np.abs(step[..., 0]).max(axis=1) < LONGEST_STEP)


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
