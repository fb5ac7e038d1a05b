"""Values and reasons in messages: short, whatever they are, so that a message can be read."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Sequence

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 120, 120, 60


def shorten(value: object) -> str:
    """``repr`` of a value of any size, in 500 characters at most.

    >>> shorten('a river'), len(shorten('a river ' * 1000)), shorten(list(range(1000)))
    ("'a river'", 120, '[0, 1, 2, 3, 4, 5, ...]')
    """
    try:
        return clip(_SHORT.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        return f'a {type(value).__name__}'


def clip(text: object, limit: int = 500) -> str:
    """A text on one line, its middle left out where it is longer than ``limit``.

    >>> clip('aaaabbbbcccc', limit=9)
    'aa ... cc'
    """
    line = ' '.join(str(text).split())
    if len(line) <= limit:
        return line
    head = (limit - 5) // 2
    return f'{line[:head]} ... {line[len(line) - (limit - 5 - head) :]}'


def reason(error: BaseException, limit: int = 500) -> str:
    """Kind and text of an error.

    >>> reason(KeyError('images'))
    "KeyError: 'images'"
    """
    return f'{type(error).__name__}: {clip(error, limit)}'


def first_of(names: Sequence[str], count: int = 5) -> str:
    """The first of many names.

    >>> first_of(['a', 'b', 'c'], 2)
    'a, b, ...'
    """
    return clip(', '.join(names[:count]) + (', ...' if len(names) > count else ''))


def printable(text: str) -> str:
    r"""A text that UTF-8 can hold: bytes of a file name that are no text are written as escapes.

    >>> printable('caf\udce9.jpg')
    'caf\\udce9.jpg'
    """
    return text.encode('utf-8', 'backslashreplace').decode()


def escaped(text: str) -> str:
    r"""Such a text whose control characters and line ends are escapes too, for a line on the screen.

    >>> escaped('a\nb')
    'a\\nb'
    """
    breaks = ('Cc', 'Zl', 'Zp')
    escaped = (c.encode('unicode_escape').decode() if unicodedata.category(c) in breaks else c for c in printable(text))
    return ''.join(escaped)
