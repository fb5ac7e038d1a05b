"""How images and scenes are cut into the pieces that get a vector each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galr_mm.archive.footprints import footprints, pixel_size
from galr_mm.archive.records import SceneRecord, Tile
from galr_mm.imagery import Scene, SceneReading, Window, image_size, is_scene, open_image, windows
from galr_mm.messages import shorten

MAX_PIXELS = 1 << 28  # of an image that is decoded whole, 0.8 GiB in color


class Piece(NamedTuple):
    """What is encoded: a whole file by its path, or a window of it as BGR uint8 (h, w, 3).

    ``valid`` is the fraction of it that holds data, None where there is nothing that says no data.
    """

    window: Window
    content: Path | np.ndarray
    valid: float | None = None


@dataclass
class Source:
    """A file that is read: its size (height, width), its pieces, and what becomes known of a scene meanwhile."""

    size: tuple[int, int]
    pieces: Iterator[Piece]
    scene: Scene | None = None
    empty: int = 0  # windows that hold too little data

    def finish(self, tiles: list[Tile]) -> tuple[list[Tile], SceneRecord | None]:
        """The tiles with their footprints, and what the catalogue keeps of the scene, once all pieces are read.

        Raises:
            ValueError: when no piece holds data.
        """
        if self.scene is None:
            return tiles, None
        if not tiles:
            raise ValueError(f'none of {self.empty} tiles holds enough data')
        unplaced, size = None, None
        try:
            places = footprints(self.scene.place, [tile.window for tile in tiles])
            size = pixel_size(self.scene.place, *self.size)
            tiles = [tile._replace(footprint=place) for tile, place in zip(tiles, places, strict=True)]
            if None in places:
                crs = shorten(self.scene.place.crs)
                unplaced = f'{places.count(None)} of {len(places)} tiles are beyond what {crs} describes'
        except ValueError as error:
            unplaced = str(error)
        record = SceneRecord(*self.scene.rendering, *self.scene.place, self.empty, unplaced, size)
        return tiles, record


@dataclass(frozen=True)
class Cut:
    """How images are cut.

    Args:
        tile: side of a tile in pixels; None leaves images whole. An image that fits into a tile is left whole too.
        overlap: pixels that neighboring tiles share.
        min_valid: fraction of a scene's tile that has to hold data; other tiles are left out.
        scenes: how scenes become pixels.

    Raises:
        ValueError: when tiles would not move on, images that are left whole would overlap, or the fraction is none.
    """

    tile: int | None = None
    overlap: int = 0
    min_valid: float = 0.5
    scenes: SceneReading = field(default_factory=SceneReading)

    def __post_init__(self) -> None:
        if self.tile is None and self.overlap:
            raise ValueError(f'overlap is {self.overlap} without a tile, expected 0: images are left whole')
        if self.tile is not None and not 0 <= self.overlap < self.tile:
            raise ValueError(f'overlap is {self.overlap} and tile {self.tile}, expected 0 <= overlap < tile')
        if not 0 <= self.min_valid <= 1:
            raise ValueError(f'min_valid is {self.min_valid}, expected 0 to 1')

    def __str__(self) -> str:
        parts = ['whole images' if self.tile is None else f'{self.tile} pixels, overlap {self.overlap}']
        parts += [] if self.min_valid == 0.5 else [f'valid {self.min_valid:g}']
        return ', '.join([*parts, *filter(None, [str(self.scenes)])])

    def open(self, path: Path) -> Source:
        """An image or scene with its pieces, which are read when they are asked for.

        Raises:
            OSError, ValueError: when it cannot be read, or is too large to be decoded whole.
            ImportError: when it is a scene and rasterio is not installed; names the extra.
        """
        if is_scene(path, self.scenes):
            return self._open_scene(path)
        height, width = image_size(path)
        whole = self._is_whole(height, width)
        if height * width > MAX_PIXELS and (whole or not _is_stored_in_tiles(path)):
            raise too_large(
                height, width, 'only a TIFF that is stored in tiles is read by windows, where images are cut'
            )
        if whole:
            return Source((height, width), iter([Piece(Window(0, 0, width, height), path)]))
        return Source((height, width), self._windows(path, height, width))

    def _is_whole(self, height: int, width: int) -> bool:
        return self.tile is None or max(height, width) <= self.tile

    def _cut(self, height: int, width: int) -> Iterator[Window]:
        if self.tile is None or self._is_whole(height, width):
            return iter([Window(0, 0, width, height)])
        return windows(height, width, self.tile, self.overlap)

    def _windows(self, path: Path, height: int, width: int) -> Iterator[Piece]:
        with open_image(path) as image:
            for window in self._cut(height, width):
                yield Piece(window, image.read(window))

    def _open_scene(self, path: Path) -> Source:
        scene = Scene(path, self.scenes)
        height, width = scene.height, scene.width
        if self._is_whole(height, width) and height * width > MAX_PIXELS:
            scene.close()
            raise too_large(height, width, 'it is read by windows where images are cut')
        source = Source((height, width), iter(()), scene)
        source.pieces = self._scene_windows(source, scene)
        return source

    def _scene_windows(self, source: Source, scene: Scene) -> Iterator[Piece]:
        with closing(scene):
            whole = self._is_whole(*source.size)
            for window in self._cut(*source.size):
                pixels, valid = scene.read_valid(window)
                if valid and (whole or valid >= self.min_valid):
                    yield Piece(window, pixels, valid)
                else:
                    source.empty += 1


def too_large(height: int, width: int, remedy: str) -> ValueError:
    """An image that would be decoded whole."""
    return ValueError(f'{width} x {height} pixels, more than the {MAX_PIXELS} that are decoded at a time; {remedy}')


def _is_stored_in_tiles(path: Path) -> bool:
    if path.suffix.lower() not in ('.tif', '.tiff') or find_spec('tifffile') is None:
        return False
    import tifffile

    with tifffile.TiffFile(path) as file:
        return bool(file.pages[0].is_tiled)
