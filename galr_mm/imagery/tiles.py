"""Large images in tiles with overlap, as sliced inference cuts them, without ever holding more than one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from galr_mm.imagery import tiff
from galr_mm.imagery.header import read_file_header
from galr_mm.imagery.pixels import naming_image, read_image
from galr_mm.imagery.stretch import Stretch, sample_step

if TYPE_CHECKING:
    from tifffile import TiffPage


class Window(NamedTuple):
    """Part of an image in pixels, ends excluded."""

    left: int
    top: int
    right: int
    bottom: int


class OpenedImage(Protocol):
    """An image that is read window by window: ``read`` gives BGR uint8 (h, w, 3)."""

    height: int
    width: int

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3)."""
        ...


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header where its kind is known, else by decoding it.

    Raises:
        OSError: when the file cannot be read.
    """
    header = read_file_header(path)
    return read_image(path).shape[:2] if header is None else header.image_size


def windows(height: int, width: int, tile: int, overlap: int) -> Iterator[Window]:
    """Windows of ``tile`` x ``tile`` pixels, row by row, that share ``overlap`` pixels; the last end with the image.

    >>> list(windows(100, 250, tile=100, overlap=20))
    [Window(left=0, top=0, right=100, bottom=100), Window(left=80, top=0, right=180, bottom=100), \
Window(left=150, top=0, right=250, bottom=100)]
    """
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            yield Window(left, top, min(left + tile, width), min(top + tile, height))


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


@contextmanager
def open_image(path: str | Path) -> Iterator[OpenedImage]:
    """A tiled gray or RGB TIFF is read window by window; everything else is decoded once. The pixels are the same.

    Raises:
        OSError: when the file cannot be read or decoded.
        ImportError: when it is a TIFF that needs tifffile, which is not installed.
    """
    header = read_file_header(path)
    if header is not None and header.tags is not None and find_spec('tifffile'):
        with ExitStack() as stack:
            with naming_image(path):
                page = stack.enter_context(tiff.first_page(path))
            if _is_windowed(page):
                yield TiledTiff(page, path)
                return
    yield DecodedImage(path)


def _is_windowed(page: TiffPage) -> bool:
    """Whether tiles of this page, put together, are the image: no palette, not rotated, a codec that is available."""
    import tifffile

    return (
        page.is_tiled
        and page.dtype is not None
        and page.dtype.kind in 'uif'
        and page.planarconfig == 1
        and page.imagedepth == 1
        and page.bitspersample == 8 * page.dtype.itemsize
        and page.photometric in (tiff.BLACK_IS_ZERO, tiff.RGB)
        and page.tags.valueof(274, 1) == 1
        # LZW, JPEG and others are those of the package imagecodecs
        and page.compression in tifffile.TIFF.DECOMPRESSORS
    )


class DecodedImage:
    """An image that is decoded whole."""

    def __init__(self, path: str | Path) -> None:
        self.array = read_image(path)
        self.height, self.width = self.array.shape[:2]

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3)."""
        return np.ascontiguousarray(self.array[window.top : window.bottom, window.left : window.right])


class TiledTiff:
    """First page of a TIFF that is stored in tiles, of which only those under a window are decoded."""

    def __init__(self, page: TiffPage, path: str | Path) -> None:
        self.page = page
        self.path = path
        self.height, self.width = page.imagelength, page.imagewidth

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3), as :func:`galr_mm.imagery.pixels.read_image` would give them.

        Raises:
            OSError: when a tile cannot be decoded; names the file.
        """
        return tiff.to_bgr(self.values(window), self.page, self.stretch)

    @cached_property
    def stretch(self) -> Stretch | None:
        """One for the whole scene, that of the file decoded whole; every tile is decoded once for it."""
        if not tiff.is_deep(self.page):
            return None
        step = sample_step(self.height, self.width)
        sampled = []
        for top in range(0, self.height, self.page.tilelength):
            row = self.values(Window(0, top, self.width, min(top + self.page.tilelength, self.height)))
            sampled.append(row[-top % step :: step, ::step])
        return tiff.stretch_of(self.page, np.concatenate(sampled))

    def values(self, window: Window) -> np.ndarray:
        """Values (h, w, 1 or 3) as they are stored."""
        with naming_image(self.path):
            return self._values(window)

    def _values(self, window: Window) -> np.ndarray:
        page, file = self.page, self.page.parent.filehandle
        high, wide = page.tilelength, page.tilewidth
        across = -(-self.width // wide)
        bands = tiff.bands_of(page)
        out = np.full((window.bottom - window.top, window.right - window.left, bands), page.nodata, page.dtype)
        for row in range(window.top // high, -(-window.bottom // high)):
            for column in range(window.left // wide, -(-window.right // wide)):
                index = row * across + column
                file.seek(page.dataoffsets[index])
                data = file.read(page.databytecounts[index])
                part = page.decode(data, index, jpegtables=page.jpegtables)[0]
                if part is None:
                    continue  # a tile that was never written has no values
                part = part[0, ..., :bands]  # h, w, samples; cut off at the edges of the image
                top, left = row * high, column * wide
                first_y, first_x = max(top, window.top), max(left, window.left)
                last_y, last_x = min(top + part.shape[0], window.bottom), min(left + part.shape[1], window.right)
                out[first_y - window.top : last_y - window.top, first_x - window.left : last_x - window.left] = part[
                    first_y - top : last_y - top, first_x - left : last_x - left
                ]
        return out
