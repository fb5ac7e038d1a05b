"""Which tiles a search may give: place, time, platform and other fields, as values that SQLite compares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from numbers import Real
from typing import Any

from galr_mm.archive.records import Bounds
from galr_mm.messages import shorten

Moment = str | date | datetime
# of a row of json_each: SQLite has 1 and 0 for true and false, but people write words
AS_TEXT = "CASE WHEN type IN ('true', 'false') THEN type ELSE CAST(atom AS TEXT) END"


@dataclass(frozen=True)
class Where:
    """A filter: every condition that is given must hold, and a tile that says nothing about one does not pass it.

    Args:
        bbox: west, south, east, north in degrees; tiles that touch it pass. west > east crosses the antimeridian.
        start: first moment, such as '2021-06-01' or '2021-06-01T12:00:00Z'; without a zone it is UTC.
        end: last moment; a date means all of that day.
        platform: one or several, of which any will do.
        gsd: meters a pixel, from and to; None leaves an end open.
        metadata: values by field. A string also equals a number or a truth value (true, false) that is written like it.
        min_score: cosine that a hit must reach.

    Raises:
        ValueError: names the condition and the value.

    Example:
        >>> Where(bbox=(170, -20, -170, 0), start='2021-06-01', metadata={'season': 'dry'}).condition()[1][:4]
        [180.0, 170.0, 0.0, -20.0]
    """

    bbox: Bounds | None = None
    start: Moment | None = None
    end: Moment | None = None
    platform: str | Sequence[str] | None = None
    gsd: tuple[float | None, float | None] | None = None
    metadata: Mapping[str, str | float | bool] = field(default_factory=dict)
    min_score: float | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None:
            object.__setattr__(self, 'bbox', check_bounds(self.bbox, 'bbox'))
        if self.min_score is not None and not _is_number(self.min_score):
            raise ValueError(f'min_score is {self.min_score!r}, expected a number')
        ends = self.gsd if isinstance(self.gsd, (tuple, list)) else ()
        if self.gsd is not None and (len(ends) != 2 or not all(v is None or _is_number(v) for v in ends)):
            raise ValueError(f'gsd is {self.gsd!r}, expected two numbers of meters, from and to')
        finest, coarsest = self.gsd or (None, None)
        if finest is not None and coarsest is not None and finest > coarsest:
            raise ValueError(f'gsd is from {finest:g} to {coarsest:g}, expected the smaller number first')
        if not isinstance(self.platform, (str, tuple, list, type(None))):
            raise ValueError(f'platform is {shorten(self.platform)}, expected a text or several')
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f'metadata is {shorten(self.metadata)}, expected values by field')
        for name, value in self.metadata.items():
            if not isinstance(name, str) or not (isinstance(value, (str, bool)) or _is_number(value)):
                raise ValueError(f'metadata is {name!r}: {value!r}, expected a text, a number or a truth value by name')
        texts = [value for value in self.metadata.values() if not isinstance(value, (bool, float, int))]
        for text in (*self._platforms, *self.metadata, *texts):
            if not isinstance(text, str) or not _is_unicode(text):
                raise ValueError(f'{text!r} in a filter is not text')
        start, end = self._period
        if start is not None and end is not None and start > end:
            raise ValueError(f'start is {self.start}, after end, which is {self.end}')

    @property
    def restricts(self) -> bool:
        """Whether there is a condition on tiles, besides the score."""
        return any([self.bbox, self.start, self.end, self.platform is not None, self.gsd, self.metadata])

    @property
    def _platforms(self) -> tuple[str, ...]:
        return (self.platform,) if isinstance(self.platform, str) else tuple(self.platform or ())

    @property
    def _period(self) -> tuple[int | None, int | None]:
        return (
            None if self.start is None else milliseconds(self.start, 'start'),
            None if self.end is None else milliseconds(self.end, 'end', last=True),
        )

    def condition(self) -> tuple[str, list[Any]]:
        """SQL over ``tile`` and ``source``, and the values of its parameters; the text holds nothing of the user's."""
        parts: list[str] = ['1']
        values: list[Any] = []
        if self.bbox is not None:
            west, south, east, north = self.bbox
            boxes = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
            # the tree holds bounds rounded to float32, outwards: it gives all that pass, and a few more
            tree = ' OR '.join(['west <= ? AND east >= ? AND south <= ? AND north >= ?'] * len(boxes))
            parts.append(f'tile.row IN (SELECT id >> 1 FROM place WHERE {tree})')
            values += [value for left, right in boxes for value in (right, left, north, south)]
            exact = (
                'tile.west <= tile.east AND tile.west <= ? AND tile.east >= ?'
                ' OR tile.west > tile.east AND (tile.west <= ? OR tile.east >= ?)'
            )
            parts.append(f'tile.south <= ? AND tile.north >= ? AND ({" OR ".join([exact] * len(boxes))})')
            values += [north, south, *(value for left, right in boxes for value in (right, left) * 2)]
        for column, bounds in (('time', self._period), ('gsd', self.gsd or (None, None))):
            for bound, sign in zip(bounds, ('>=', '<='), strict=True):
                if bound is not None:
                    parts.append(f'source.{column} {sign} ?')
                    values.append(bound)
        if self.platform is not None:
            parts.append(f'source.platform IN ({", ".join("?" * len(self._platforms))})')
            values += self._platforms
        for name, value in self.metadata.items():
            same = 'value = ?' if not isinstance(value, str) else f'(atom = ? OR {AS_TEXT} = ?)'
            parts.append(f'EXISTS (SELECT 1 FROM json_each(source.metadata) WHERE key = ? AND {same})')
            values += [name, value, *([value] if isinstance(value, str) else [])]
        return ' AND '.join(f'({part})' for part in parts), values


def check_bounds(bounds: Sequence[float], name: str) -> Bounds:
    """Bounds as four numbers.

    Raises:
        ValueError: when they are not four numbers of degrees, or south is above north.
    """
    values = tuple(bounds) if isinstance(bounds, Iterable) else ()
    if len(values) == 4 and all(map(_is_number, values)):
        west, south, east, north = map(float, values)
        if -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90:
            return west, south, east, north
    raise ValueError(
        f'{name} is {bounds!r}, expected west, south, east, north in degrees: -180 to 180, -90 to 90, south <= north'
    )


def milliseconds(moment: Moment, name: str, last: bool = False) -> int:
    """Milliseconds since 1970 UTC; of a date its first or its last one.

    Raises:
        ValueError: when it is not a date or a time, or not of the years 1 to 9999 in UTC.

    >>> milliseconds('1970-01-02', 'start'), milliseconds('1970-01-01', 'end', last=True)
    (86400000, 86399999)
    """
    whole_day = isinstance(moment, date) and not isinstance(moment, datetime)
    try:
        if isinstance(moment, str):
            text = moment.strip()
            day = _day(text)
            whole_day = day is not None
            moment = day or datetime.fromisoformat(text[:-1] + '+00:00' if text[-1:] in ('Z', 'z') else text)
        if whole_day:
            moment = datetime(moment.year, moment.month, moment.day)
        if not isinstance(moment, datetime):
            raise TypeError
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        passed = moment.astimezone(timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f'{name} is {moment!r}, expected a date or a time such as 2021-06-01T12:00:00Z, of the years 1 to 9999 UTC'
        ) from None
    return passed // timedelta(milliseconds=1) + (86_399_999 if whole_day and last else 0)


def _day(text: str) -> date | None:
    """A text that is a date alone, in any form that Python reads: 2021-06-01, later versions 20210601 and 2021-W22-2.

    Raises:
        ValueError: for a week, which is not a day.
    """
    if re.fullmatch(r'\d{4}-?W\d{2}', text):
        raise ValueError('a week')
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None  # a time, or nothing of the kind


def _is_number(value: object) -> bool:
    """Whether SQLite can compare with it: finite, and within 64 bits."""
    return isinstance(value, Real) and not isinstance(value, bool) and value < 2**63 and not value <= -(2**63)


def _is_unicode(text: str) -> bool:
    """Whether SQLite can hold it: it has no form for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
