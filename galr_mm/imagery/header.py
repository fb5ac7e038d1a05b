"""What the head of an image file says, without decoding it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile

from galr_mm.imagery import tiff
from galr_mm.imagery.orientation import REVERSED, swaps_sides

ORIENTATION = 0x0112


class Header(NamedTuple):
    """Size as stored, orientation, what decoding to 8-bit color leaves out or converts, and the tags of a TIFF."""

    stored_size: tuple[int, int]
    orientation: int
    changes: tuple[str, ...]
    tags: tiff.Tags | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        height, width = self.stored_size
        return (width, height) if swaps_sides(self.orientation) else (height, width)


def read_header(file: BinaryIO) -> Header | None:
    """The header of an image file; None where it is of no kind that Pillow or the TIFF format knows."""
    tags = tiff.read_tags(file)
    if tags is not None:
        changes = [*tags.changes(), *(['pages after the first left out'] if tags.has_more_pages else [])]
        return Header(tags.size, _valid(tags.orientation), _with_rotation(changes, tags.orientation), tags)
    image = open_with_pillow(file)
    if image is None:
        return None
    changes = []
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        changes.append('alpha left out')
    if image.mode == 'CMYK':
        changes.append('CMYK converted to RGB')
    if getattr(image, 'n_frames', 1) > 1:
        changes.append('frames after the first left out')
    orientation = _exif_orientation(image.info.get('exif'))
    return Header((image.height, image.width), orientation, _with_rotation(changes, orientation))


def open_with_pillow(file: BinaryIO) -> ImageFile | None:
    """As ``Image.open``, without its limit on pixels, which is one for the whole process; None if it is of no kind.

    Nothing is decoded here; what may be decoded is the business of :data:`galr_mm.imagery.pixels.MAX_PIXELS`.
    """
    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for kind in Image.ID:
        factory, accept = Image.OPEN[kind]
        try:
            if accept is not None and accept(prefix) is True:
                file.seek(0)
                return factory(file, '')
        except (SyntaxError, IndexError, TypeError, ValueError, OSError, struct.error):
            continue  # what Image.open takes for "not of this kind", and a header that is cut off
    return None


def read_file_header(path: str | Path) -> Header | None:
    """The header of a file."""
    with open(path, 'rb') as file:
        return read_header(file)


def read_bytes_header(content: bytes) -> Header | None:
    """The header of a file's content."""
    return read_header(io.BytesIO(content))


def _exif_orientation(content: bytes | None) -> int:
    if not content:
        return 1
    exif = Image.Exif()
    try:
        exif.load(content)
        return _valid(exif.get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error, OSError):
        return 1  # EXIF data that cannot be read says nothing


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and orientation in REVERSED else 1


def _with_rotation(changes: list[str], orientation: object) -> tuple[str, ...]:
    return (*changes, *(['rotated by its EXIF data'] if _valid(orientation) != 1 else []))
