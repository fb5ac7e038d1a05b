"""TIFF files: which OpenCV decodes as they are, and the others, read with tifffile (extra ``galr_mm[detect]``)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from galr_mm.imagery.orientation import upright
from galr_mm.imagery.stretch import Stretch, fit_stretch, sample_step
from galr_mm.integrations.installation import require_module

if TYPE_CHECKING:
    from tifffile import TiffPage

# what a pixel is (tag 262), and its samples: for these OpenCV does what is expected of 8 bit without extra samples
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, 6: 3, 8: 3}
READABLE = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# scale, tie points, transformation, keys of GeoTIFF, the value for no data, rational polynomials
GEOGRAPHIC = (33550, 33922, 34264, 34735, 42113, 50844)
REDUCED, MASK = 1, 4  # bits of the kind of a page (tag 254): an overview, a mask


class Tags(NamedTuple):
    """The tags of the first page, as far as they decide how it is read."""

    size: tuple[int, int]
    bits: int
    samples: int
    slices: int
    photometric: int | None
    sample_format: int
    extra_samples: tuple[int, ...]
    orientation: int
    has_more_pages: bool
    is_geographic: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether OpenCV decodes it: gray, palette, RGB, CMYK, YCbCr or Lab of 1 or 8 bit, and nothing else."""
        bits = (1, 4, 8) if self.photometric == PALETTE else (1, 8) if self.photometric in (0, 1) else (8,)
        samples = SAMPLES.get(self.photometric or 0)
        return self.bits in bits and self.sample_format in (1, 4) and self.samples == samples and self.slices == 1

    def changes(self) -> Iterator[str]:
        """What decoding to 8-bit color leaves out or converts, but for the stretch."""
        extra = self.samples - SAMPLES.get(self.photometric or 0, self.samples)
        if extra > 0 and self.extra_samples and set(self.extra_samples[:extra]) <= {1, 2}:
            yield 'alpha left out'
        elif extra > 0 and self.samples > 3:
            yield 'bands after the third left out'
        elif extra > 0 and self.samples == 2:
            yield 'the second band left out'
        if self.photometric == CMYK:
            yield 'CMYK converted to RGB'


def read_tags(file: BinaryIO) -> Tags | None:
    """Tags of the first page of a TIFF; None where the file is none, or its head is broken."""
    file.seek(0)
    head = file.read(16)
    if head[:4] not in MAGIC:
        return None
    try:
        tags = ImageFileDirectory_v2(head if b'+' in head[:4] else head[:8])
        file.seek(tags.next)
        tags.load(file)
        return Tags(
            size=(int(tags[257]), int(tags[256])),
            bits=_largest(tags.get(258, 1)),
            samples=int(tags.get(277, 1)),
            slices=int(tags.get(32997, 1)),
            photometric=tags.get(262),
            sample_format=_largest(tags.get(339, 1)),
            extra_samples=tuple(np.atleast_1d(tags.get(338, ())).tolist()),
            orientation=tags.get(274, 1),
            is_geographic=any(tag in tags for tag in GEOGRAPHIC),
            has_more_pages=_has_more_pages(file, tags),  # which moves on to the tags of other pages
        )
    except (SyntaxError, KeyError, TypeError, ValueError, OverflowError, OSError, struct.error):
        return None


def _largest(values: Any) -> int:
    return int(np.max(values))


def _has_more_pages(file: BinaryIO, tags: ImageFileDirectory_v2) -> bool:
    """Whether a page after the first is neither an overview nor a mask of it."""
    seen = {0}
    while tags.next not in seen:
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        if not int(tags.get(254, 0)) & (REDUCED | MASK):
            return True
    return False


@contextmanager
def first_page(source: str | Path | BinaryIO) -> Iterator[TiffPage]:
    """The first page of a TIFF, by tifffile.

    Raises:
        ImportError: when tifffile is not installed; names the extra.
    """
    require_module('tifffile', 'detect')
    import tifffile

    with tifffile.TiffFile(source) as file:
        yield file.pages[0]


def decode_with_tifffile(content: bytes) -> tuple[np.ndarray, str | None]:
    """BGR uint8 (H, W, 3) of the first page, upright, and what the values were where they were stretched.

    Raises:
        ImportError: when tifffile, or imagecodecs for the way the file is packed, is not installed; names the extra.
        ValueError: when the pixels are of a kind that has no rule here.
    """
    with first_page(io.BytesIO(content)) as page:
        check_page(page)
        try:
            values = page.asarray()
        except ValueError as error:
            if 'imagecodecs' in str(error):
                require_module('imagecodecs', 'detect')
            raise
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)[..., : bands_of(page)]
        step = sample_step(*values.shape[:2])
        pixels = to_bgr(values, page, stretch_of(page, values[::step, ::step]))
        orientation = page.tags.valueof(274, 1)
        return np.ascontiguousarray(upright(pixels, orientation if orientation in range(1, 9) else 1)), (
            f'{values.dtype.name} values stretched to 8 bit' if is_deep(page) else None
        )


def check_page(page: TiffPage) -> None:
    """Raise ValueError for pixels that have no rule here."""
    kind, depth = page.photometric, page.bitspersample
    deep_palette = kind == PALETTE and (is_deep(page) or page.samplesperpixel > 1)
    if (
        kind not in READABLE
        or deep_palette
        or page.imagedepth > 1
        or page.dtype is None
        or page.dtype.kind not in 'buif'
    ):
        raise ValueError(
            f'a TIFF of {page.samplesperpixel} samples of {depth} bit ({getattr(kind, "name", kind)}, {page.dtype}) '
            'has no rule; accepted: gray or RGB of any depth, also with alpha or more bands, and palette, CMYK, YCbCr '
            'or Lab of 8 bit without'
        )


def is_deep(page: TiffPage) -> bool:
    """Whether values are of another kind than unsigned integers of at most 8 bit."""
    return page.dtype not in (np.uint8, np.bool_)


def bands_of(page: TiffPage) -> int:
    """How many bands count: the first one of one or two, and the first three (red, green, blue) of more."""
    return 3 if page.samplesperpixel >= 3 else 1


def missing_value(page: TiffPage) -> float | None:
    """What stands for no value (the tag GDAL_NODATA)."""
    try:
        return float(str(page.tags.valueof(42113)).strip('\0 '))
    except ValueError:
        return None


def stretch_of(page: TiffPage, values: np.ndarray) -> Stretch | None:
    """The stretch of a deep page from a sample of its values; None where values are pixels already."""
    if not is_deep(page):
        return None
    stretch = fit_stretch(values, missing_value(page))
    if page.photometric == WHITE_IS_ZERO:
        stretch = stretch._replace(low=stretch.high, high=stretch.low)
    return stretch


def to_bgr(values: np.ndarray, page: TiffPage, stretch: Stretch | None) -> np.ndarray:
    """Values (H, W, 1 or 3) of a page -> BGR uint8 (H, W, 3)."""
    if stretch is not None:
        pixels = stretch(values)
    elif page.photometric == PALETTE:
        pixels = (np.asarray(page.colormap) >> 8).astype(np.uint8).T[values[..., 0]]
    else:
        largest = 2 ** min(page.bitspersample, 8) - 1
        pixels = values if largest == 255 else (values * (255 / largest)).round().astype(np.uint8)
        if page.photometric == WHITE_IS_ZERO:
            pixels = 255 - pixels
    if pixels.shape[2] < 3:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1])
