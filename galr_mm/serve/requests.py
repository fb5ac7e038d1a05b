"""What a client may ask, and in which words it is refused: nothing of the server is in them."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from galr_mm.archive import Where
from galr_mm.archive.bank import METHODS
from galr_mm.imagery.header import read_bytes_header
from galr_mm.imagery.pixels import decode_image
from galr_mm.messages import clip, shorten

TOPK = 200
SENTENCE = 1000  # characters
FILTER = 4000  # characters of json
UPLOAD = 20 * 2**20  # bytes of an image
PIXELS = 50_000_000
SCANS = 64  # of a progressive JPEG, each of which is a pass over all pixels
KINDS = {b'\xff\xd8\xff': 'JPEG', b'\x89PNG': 'PNG', b'II': 'TIFF', b'MM': 'TIFF', b'BM': 'BMP', b'RIFF': 'WebP'}
ACCEPTED = ', '.join(dict.fromkeys(KINDS.values()))


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what the client is told.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Query:
    """One search.

    Args:
        sentence: what to look for; or
        image: the content of an image file in base64.
        topk: at most so many hits.
        where: arguments of :class:`galr_mm.archive.Where`.
        rerank: a method of re-ranking by the bank of the index.

    Raises:
        ValueError: names what is wrong and what is accepted.
    """

    sentence: str | None = None
    image: str | None = None
    topk: int = 24
    where: dict[str, Any] = field(default_factory=dict)
    rerank: str | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = dict(extra='forbid')

    def __post_init__(self) -> None:
        if (self.sentence is None) == (self.image is None):
            raise ValueError('expected a sentence or an image, and not both')
        if self.sentence is not None:
            check_sentence(self.sentence)
        if not 1 <= self.topk <= TOPK:
            raise ValueError(f'topk is {shorten(self.topk)}, expected 1 to {TOPK}')
        if self.rerank is not None and self.rerank not in METHODS:
            raise ValueError(f'rerank is {shorten(self.rerank)}, expected one of {", ".join(METHODS)}')
        if len(json.dumps(self.where)) > FILTER:
            raise ValueError(f'the filter is longer than {FILTER} characters')
        self.filter()

    def filter(self) -> Where:
        """The filter.

        Raises:
            ValueError: names the condition and the value.
        """
        try:
            return Where(**self.where)
        except (TypeError, AttributeError, OverflowError) as error:  # a condition of another kind or name
            raise ValueError(f'the filter {shorten(self.where)} is not one ({clip(error, 200)})') from error


@dataclass(frozen=True)
class HeatQuery:
    """Where in the image of a tile a sentence is true."""

    tile_id: str
    sentence: str

    __pydantic_config__: ClassVar[dict[str, str]] = dict(extra='forbid')

    def __post_init__(self) -> None:
        check_sentence(self.sentence)


def check_sentence(sentence: str) -> None:
    """Raise ValueError for one that is empty or too long."""
    if not sentence.strip() or len(sentence) > SENTENCE:
        found = f'{len(sentence)} characters' if sentence.strip() else 'empty'
        raise ValueError(f'the sentence is {found}, expected 1 to {SENTENCE} characters')


def image_of(text: str) -> np.ndarray:
    """An uploaded image as BGR uint8 (H, W, 3); its size is known before it is decoded.

    Args:
        text: the content of the file in base64.

    Raises:
        Refused: when it is not an image, or too large.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(422, 'the image is not in base64') from error
    if len(content) > UPLOAD:
        raise Refused(413, f'the image has {len(content)} bytes, at most {UPLOAD} are accepted')
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    try:
        header = read_bytes_header(content) if kind else None
    except Exception as error:  # parsers raise many kinds on broken files
        raise Refused(422, 'the head of the image file is broken') from error
    if header is None:
        raise Refused(415, f'this is not an image that can be read; accepted are {ACCEPTED}')
    height, width = header.image_size
    samples = 1 if header.tags is None else header.tags.samples * header.tags.slices
    if height * width > PIXELS or height * width * samples > 4 * PIXELS:
        raise Refused(413, f'the image has {width} x {height} pixels, at most {PIXELS} are accepted')
    if kind == 'JPEG' and content.count(b'\xff\xda') > SCANS:
        raise Refused(413, f'the image is stored in more than {SCANS} passes')
    try:
        return decode_image(content).pixels
    except Exception as error:  # decoders raise many kinds on broken files
        raise Refused(422, f'the {kind} file cannot be decoded') from error
