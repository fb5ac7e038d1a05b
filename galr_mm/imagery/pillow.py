"""Images that were opened with Pillow, which of colors of more than 8 bit keeps the upper 8, however dark they are.

What such a file means is said by :mod:`galr_mm.imagery.pixels` alone, so it is read anew from where Pillow read it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from galr_mm.imagery.header import open_with_pillow
from galr_mm.imagery.pixels import decode_image

KINDS = ('PNG', 'TIFF', 'PPM')  # that may have more than 8 bit, and that Pillow cuts to 8
DEEP = re.compile(r'^[IF]|;(1[0-6]|32|64)')  # names of how pixels are stored


def read_deep(image: Image.Image) -> np.ndarray | None:
    """BGR uint8 (H, W, 3), upright, of an image that Pillow opened from a file of more than 8 bit; None of all others.

    Raises:
        ValueError: when it was changed after it was opened, or the file cannot be decoded.
        ImportError: when it is a TIFF that needs tifffile, which is not installed.
    """
    if not isinstance(image, ImageFile) or image.format not in KINDS:
        return None
    with _source(image) as file:
        opened = None if file is None else open_with_pillow(file)
        if not _is_deep(opened or image):
            return None
        if file is None or opened is None:
            raise ValueError('was opened from a file of more than 8 bit that is not there any more; pass its name')
        if opened.mode != image.mode or not np.array_equal(np.asarray(opened), np.asarray(image)):
            raise ValueError(
                'was opened from a file of more than 8 bit, of which Pillow keeps 8 that may be nearly black, and '
                'changed; pass the name of the file, or a BGR uint8 array that galr_mm.imagery.read_image gave'
            )
        file.seek(0)
        return decode_image(file.read()).pixels


def _is_deep(image: ImageFile) -> bool:
    """Whether what is still to be decoded has more than 8 bit."""
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        largest = args[1] if image.format == 'PPM' and len(args) > 1 else 0
        if DEEP.search(str(args[0])) or int(largest) > 255:
            return True
    return False


@contextmanager
def _source(image: ImageFile) -> Iterator[BinaryIO | None]:
    """What an image was opened from; in an open file Pillow, which may still decode it, is left where it stands."""
    if image.filename and os.path.isfile(image.filename):
        with open(image.filename, 'rb') as file:
            yield file
        return
    held = image.fp or getattr(image, '_fp', None)  # after decoding Pillow keeps it for further frames
    if not isinstance(held, io.IOBase) or held.closed or not held.seekable():
        yield None
        return
    at = held.tell()
    held.seek(0)
    content = cast(BinaryIO, held).read()
    held.seek(at)
    yield io.BytesIO(content)
