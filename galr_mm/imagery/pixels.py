"""The pixels of an image file: the one loader of data sets, CLIP preprocessing, detectors, tiles and drawings.

Files of 8 bit (and of 1, 2 and 4 bit) are decoded by OpenCV. Values of any other kind (10 to 16 bit, 32 bit, float) get
one linear stretch a file, see :func:`galr_mm.imagery.stretch.fit_stretch`. Alpha is left out, its colors stay as they
are stored; of four and more bands the first three are red, green and blue; of several pages or frames the first is
read; what EXIF data says is rotated is set upright.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine import fileio

from galr_mm.imagery.header import read_bytes_header
from galr_mm.imagery.orientation import upright
from galr_mm.imagery.stretch import fit_stretch, sample_step
from galr_mm.imagery.tiff import READABLE, decode_with_tifffile
from galr_mm.utils.io import instead_of

# of an image that is decoded whole. It is OpenCV's own limit, which its variable changes.
MAX_PIXELS = int(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', 2**30))
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class Decoded(NamedTuple):
    """BGR uint8 (H, W, 3), and what of the file is not in it or was converted."""

    pixels: np.ndarray
    changes: tuple[str, ...]


def read_image(path: str | Path, backend_args: dict | None = None) -> np.ndarray:
    """An image file as BGR uint8 (H, W, 3), upright.

    Args:
        path: of a file, or of anything that mmengine's file backends know.
        backend_args: of the file backend.

    Raises:
        OSError: when the file cannot be read or decoded, or has more than :data:`MAX_PIXELS` pixels; names it.
        ImportError: when it is a TIFF that needs tifffile, which is not installed; names the file and the extra.
    """
    return decode_file(path, backend_args).pixels


def decode_file(path: str | Path, backend_args: dict | None = None) -> Decoded:
    """As :func:`read_image`, with what was changed."""
    with naming_image(path):
        return decode_image(fileio.get(path, backend_args=backend_args))


@contextmanager
def naming_image(path: str | Path) -> Iterator[None]:
    """Let errors of decoding be of one kind and name the file.

    Raises:
        OSError, ImportError: as :func:`read_image`.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f'cannot read the image {path}: {error}') from error
    except Exception as error:  # decoders raise many kinds on broken files
        reason = ' '.join(str(error).split())[:500]
        raise OSError(f'cannot read the image {path} ({type(error).__name__}: {reason})') from error


def decode_image(content: bytes) -> Decoded:
    """The pixels of a file's content.

    Raises:
        ImportError: when it is a TIFF that needs tifffile, which is not installed.
        ValueError: when it cannot be decoded or is too large.
    """
    header = read_bytes_header(content)
    if header is not None and header.image_size[0] * header.image_size[1] > MAX_PIXELS:
        height, width = header.image_size
        raise ValueError(
            f'{width} x {height} pixels, more than the {MAX_PIXELS} that are decoded at a time; cut it, or for '
            'tools/extract_proposals.py --tile make it a TIFF that is stored in tiles. OPENCV_IO_MAX_IMAGE_PIXELS in '
            'the environment is another limit'
        )
    changes = () if header is None else header.changes
    tags = None if header is None else header.tags
    plain = tags is None or tags.is_plain
    values = cv2.imdecode(np.frombuffer(content, np.uint8), FLAGS) if content and plain else None
    # OpenCV does not know all ways to store plain pixels, such as small tiles
    if values is None and tags is not None and (not plain or tags.photometric in READABLE):
        pixels, stretched = decode_with_tifffile(content)
        return Decoded(pixels, (*changes, *([stretched] if stretched else [])))
    if values is None:
        instead = instead_of(content)
        raise ValueError(f'it is {instead}' if instead else f'{len(content)} bytes that OpenCV cannot decode')
    if values.dtype != np.uint8:
        changes = (*changes, f'{values.dtype.name} values stretched to 8 bit')
        step = sample_step(*values.shape[:2])
        values = fit_stretch(values[::step, ::step])(values)
    if header is not None and header.tags is None:  # OpenCV sets a TIFF upright whatever it is told
        values = upright(values, header.orientation)
    return Decoded(np.ascontiguousarray(values), changes)
