"""Large images in tiles with overlap, as sliced inference cuts them, without ever holding more than one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError


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
    """Height and width, from a file's header where Pillow knows its kind, else by decoding it.

    Raises:
        OSError: when the file cannot be read.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # large is what we are here for; nothing is decoded
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UnidentifiedImageError:
        decoded = DecodedImage(path)
        return decoded.height, decoded.width
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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
    """A tiled gray or RGB TIFF of 8 or 16 bit is read window by window; everything else is decoded once, by mmcv.

    Raises:
        OSError: when the file cannot be decoded.
    """
    if Path(path).suffix.lower() in ('.tif', '.tiff') and find_spec('tifffile'):
        import tifffile

        with ExitStack() as stack:
            page = None
            with suppress(tifffile.TiffFileError):  # what it cannot read mmcv may
                page = stack.enter_context(tifffile.TiffFile(path)).pages[0]
            if page is not None and _is_windowed(page):
                yield TiledTiff(page)
                return
    yield DecodedImage(path)


def _is_windowed(page) -> bool:
    """Whether tiles of this page, put together, are the image: no palette, not rotated, a codec that is available."""
    import tifffile

    orientation = page.tags.get('Orientation')
    return (
        page.is_tiled
        and page.dtype in (np.uint8, np.uint16)
        and page.planarconfig == 1
        and page.bitspersample in (8, 16)
        and page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        and (orientation is None or orientation.value == 1)
        # LZW, JPEG and others are those of the package imagecodecs
        and page.compression in tifffile.TIFF.DECOMPRESSORS
    )


class DecodedImage:
    """An image that is decoded whole."""

    def __init__(self, path: str | Path) -> None:
        self.array = mmcv.imread(str(path))
        if self.array is None:
            raise OSError(f'{path} cannot be decoded')
        self.height, self.width = self.array.shape[:2]

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3)."""
        return np.ascontiguousarray(self.array[window.top : window.bottom, window.left : window.right])


class TiledTiff:
    """First page of a TIFF that is stored in tiles, of which only those under a window are decoded."""

    def __init__(self, page) -> None:
        self.page = page
        self.height, self.width = page.imagelength, page.imagewidth

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3): gray is repeated, alpha dropped, 16 bit scaled to 8."""
        page, file = self.page, self.page.parent.filehandle
        high, wide = page.tilelength, page.tilewidth
        across = -(-self.width // wide)
        out = np.zeros((window.bottom - window.top, window.right - window.left, page.samplesperpixel), page.dtype)
        for row in range(window.top // high, -(-window.bottom // high)):
            for column in range(window.left // wide, -(-window.right // wide)):
                index = row * across + column
                file.seek(page.dataoffsets[index])
                data = file.read(page.databytecounts[index])
                part = page.decode(data, index, jpegtables=page.jpegtables)[0]
                if part is None:
                    continue  # a tile that was never written is black
                part = part[0]  # h, w, samples; cut off at the edges of the image
                top, left = row * high, column * wide
                first_y, first_x = max(top, window.top), max(left, window.left)
                last_y, last_x = min(top + part.shape[0], window.bottom), min(left + part.shape[1], window.right)
                out[first_y - window.top : last_y - window.top, first_x - window.left : last_x - window.left] = part[
                    first_y - top : last_y - top, first_x - left : last_x - left
                ]
        if out.dtype == np.uint16:
            out = (out / 257).round().astype(np.uint8)
        if out.shape[2] < 3:
            return np.repeat(out[..., :1], 3, axis=2)
        return np.ascontiguousarray(out[..., 2::-1])
