"""What an archive's index holds of a file and of each part of it that is searched."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from galr_mm.imagery import Rendering, Window
from galr_mm.messages import shorten
from galr_mm.structures import Place

Bounds = tuple[float, float, float, float]  # west, south, east, north in degrees; west > east crosses the antimeridian


class FileState(NamedTuple):
    """What tells an unchanged file from a changed one without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | bytes | os.PathLike[str]) -> FileState:
        """Of a file as it is now; a link counts as what it points to.

        Raises:
            OSError: when it is not there.
        """
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns)


def digest_of(path: str | Path) -> bytes:
    """A hash of a file's content.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


@dataclass(frozen=True)
class Description:
    """What is known of an image besides its pixels; all of it may be unknown.

    Args:
        time: of the image, milliseconds since 1970 UTC.
        platform: such as a satellite.
        gsd: meters a pixel.
        bounds: of the whole image, north up.
        metadata: whatever else filters may ask for.
    """

    time: int | None = None
    platform: str | None = None
    gsd: float | None = None
    bounds: Bounds | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Box(NamedTuple):
    """An object in pixels of the whole image, with its score and class."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    label: str


class Footprint(NamedTuple):
    """Where a part of an image is: its bounds, and a Polygon or MultiPolygon of GeoJSON."""

    bounds: Bounds
    geometry: dict[str, Any]


class Tile(NamedTuple):
    """A part of an image, or the whole, that has a vector of its own.

    ``valid`` is the fraction of it that holds data; ``footprint`` is known where the file itself has a place.
    """

    window: Window
    boxes: Sequence[Box] = ()
    valid: float | None = None
    footprint: Footprint | None = None


class SceneRecord(NamedTuple):
    """What is kept of a scene: how its values became pixels, and where it is.

    Args:
        bands: red, green and blue or gray, counted from 1.
        stretch: values of each band that became black and white; None where values are pixels.
        crs, transform: see :class:`galr_mm.structures.Place`.
        empty_tiles: tiles that hold too little data to be searched.
        unplaced: why tiles have no footprint; None where all have.
        pixel_size: meters, about.
    """

    bands: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] | None
    crs: str | None
    transform: tuple[float, ...]
    empty_tiles: int = 0
    unplaced: str | None = None
    pixel_size: float | None = None

    @property
    def rendering(self) -> Rendering:
        """How its values become pixels."""
        return Rendering(self.bands, self.stretch)

    @property
    def place(self) -> Place:
        """Where its pixels are."""
        return Place(self.crs, self.transform)


@dataclass(frozen=True)
class Entry:
    """A file with all its tiles, as one transaction writes it.

    Args:
        path: relative to the archive, the bytes of the file system.
        state, digest: of the content that was read.
        image_size: height and width; None where it could not be read.
        tiles: in order.
        vectors: float32 (len(tiles), D), L2-normalized.
        reason: why it could not be read; None where it could.
        scene: what is known of a scene; None of an image.
    """

    path: bytes
    state: FileState
    digest: bytes
    image_size: tuple[int, int] | None = None
    tiles: Sequence[Tile] = ()
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    reason: str | None = None
    scene: SceneRecord | None = None


class TileRecord(NamedTuple):
    """What the catalogue says of a tile and of its file."""

    row: int
    tile_id: str
    path: bytes
    image_size: tuple[int, int]
    window: Window
    boxes: tuple[Box, ...]
    valid: float | None
    bounds: Bounds | None
    time: int | None
    platform: str | None
    gsd: float | None
    metadata: dict[str, Any]
    footprint: dict[str, Any] | None = None
    scene: SceneRecord | None = None

    @property
    def geometry(self) -> dict[str, Any] | None:
        """Its footprint, or its bounds where only these are known, in GeoJSON."""
        return self.footprint or (None if self.bounds is None else footprint_of(self.bounds))


def tile_id(path: bytes, window: Window) -> str:
    """A name of a tile that is good for files, links and databases: ``stem-<16 hex digits of the path>/<window>``.

    >>> tile_id(b'north/harbor 1.tif', Window(0, 256, 512, 768))
    'harbor_1-a14fece906c0261c/0-256-512-768'
    """
    stem = re.sub(r'[^A-Za-z0-9._-]', '_', os.path.splitext(os.path.basename(os.fsdecode(path)))[0])[:80]
    digest = hashlib.blake2b(path, digest_size=8).hexdigest()
    return f'{stem}-{digest}/{"-".join(map(str, window))}'


def boxes_of(text: str) -> tuple[Box, ...]:
    """Boxes as the catalogue holds them.

    Raises:
        ValueError: when it is no such json.
    """
    try:
        boxes = tuple(Box(*box) for box in json.loads(text))
        if all(isinstance(value, (int, float)) for box in boxes for value in box[:5]):
            return boxes
    except (ValueError, TypeError):
        boxes = ()
    raise ValueError(f'boxes is {shorten(text)}, expected a json list of [left, top, right, bottom, score, label]')


def metadata_of(text: str) -> dict[str, Any]:
    """Metadata as the catalogue holds it.

    Raises:
        ValueError: when it is no such json.
    """
    try:
        values = json.loads(text)
    except (ValueError, TypeError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f'metadata is {shorten(text)}, expected a json object')
    return values


def scene_of(text: str | None) -> SceneRecord | None:
    """A scene as the catalogue holds it.

    Raises:
        ValueError: when it is no such json.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
        stretch = values['stretch'] and tuple((float(low), float(high)) for low, high in values['stretch'])
        lists = dict(
            bands=tuple(map(int, values['bands'])), stretch=stretch, transform=tuple(map(float, values['transform']))
        )
        return SceneRecord(**{**values, **lists})
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f'scene is {shorten(text)}, expected a json object of {", ".join(SceneRecord._fields)}'
        ) from None


def geometry_of(text: str | None) -> dict[str, Any] | None:
    """The geometry of a footprint as the catalogue holds it.

    Raises:
        ValueError: when it is no such json.
    """
    try:
        if text is None or (values := json.loads(text))['type'] in ('Polygon', 'MultiPolygon'):
            return None if text is None else values
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f'footprint is {shorten(text)}, expected a Polygon or MultiPolygon')


def record_of(
    row: int, name: str, path: bytes, height: Any, width: Any, left: Any, top: Any, right: Any, bottom: Any,
    boxes: str, valid: Any, west: Any, south: Any, east: Any, north: Any, time: Any, platform: Any, gsd: Any,
    metadata: str, footprint: str | None, scene: str | None,
) -> TileRecord:  # fmt: skip
    """A tile as the catalogue holds it.

    Raises:
        ValueError, TypeError: when a value is damaged.
    """
    if not all(isinstance(value, int) for value in (height, width, left, top, right, bottom, time or 0)):
        raise TypeError('height, width, window and time are whole numbers')
    bounds = None if west is None else (west, south, east, north)
    if not all(isinstance(value, (int, float)) for value in (*(bounds or ()), valid or 0, gsd or 0)):
        raise TypeError('west, south, east, north, valid and gsd are numbers')
    return TileRecord(
        row, name, path, (height, width), Window(left, top, right, bottom), boxes_of(boxes), valid, bounds, time,
        platform, gsd, metadata_of(metadata), geometry_of(footprint), scene_of(scene),
    )  # fmt: skip


def footprint_of(bounds: Bounds) -> dict[str, Any]:
    """GeoJSON (RFC 7946) of bounds: counterclockwise, and two polygons where they cross the antimeridian.

    >>> footprint_of((0.0, 1.0, 2.0, 3.0))['coordinates']
    [[[0.0, 1.0], [2.0, 1.0], [2.0, 3.0], [0.0, 3.0], [0.0, 1.0]]]
    >>> footprint_of((179.0, 1.0, -179.0, 3.0))['type']
    'MultiPolygon'
    """
    west, south, east, north = bounds
    parts = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    rings = [[[[x, south], [z, south], [z, north], [x, north], [x, south]]] for x, z in parts]
    if len(rings) == 1:
        return dict(type='Polygon', coordinates=rings[0])
    return dict(type='MultiPolygon', coordinates=rings)


def part_of(bounds: Bounds, window: Window, image_size: tuple[int, int]) -> Bounds:
    """Bounds of a window of an image with such bounds, north up.

    >>> part_of((179.0, 0.0, -179.0, 1.0), Window(50, 0, 100, 50), (100, 100))
    (-180.0, 0.5, -179.0, 1.0)
    """
    west, south, east, north = bounds
    width, height = (east - west) % 360 or east - west, north - south
    left, right = (wrapped(west + width * x / image_size[1]) for x in (window.left, window.right))
    top, bottom = (north - height * y / image_size[0] for y in (window.top, window.bottom))
    return left, bottom, east if window.right == image_size[1] else right, top


def wrapped(longitude: float) -> float:
    """In -180 <= longitude < 180."""
    return longitude if -180 <= longitude <= 180 and longitude != 180 else (longitude + 180) % 360 - 180
