"""What tells images and captions apart, in any number of data sets and processes."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple


class ImageId(NamedTuple):
    """An image of a data set; equal for no image of another one, so that data sets can be concatenated.

    Args:
        source: the data set, in words: its split, captions and images.
        row: of the image in it.
        file: the image's file, equal where data sets share it; '' where it is not known.

    Example:
        >>> ImageId('a.json', 3) == ImageId('b.json', 3), ImageId('a.json', 3) == ImageId('a.json', 3)
        (False, True)
    """

    source: str
    row: int
    file: str = ''


def stable_id(key: object) -> int:
    """A negative int64 that is equal for equal keys, in every process; of 63 bits, so that others are different.

    >>> stable_id('a river') == stable_id('a ' + 'river') != stable_id('a road')
    True
    """
    return ~(int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), 'big') >> 1)
