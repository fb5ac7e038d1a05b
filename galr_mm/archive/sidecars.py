"""What is known of images without a table: from a STAC item beside them, and from their names."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from galr_mm.archive.filters import milliseconds
from galr_mm.archive.records import Description
from galr_mm.messages import printable
from galr_mm.utils.io import read_json

PATTERN = 'name_pattern'  # key of the index's settings
KNOWN = ('datetime', 'platform', 'gsd')
LARGEST = 1 << 24  # bytes of an item


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression whose named groups are what a name says: ``datetime``, ``platform``, ``gsd``, and fields.

    It is searched in the path relative to the archive; '' finds nothing.

    Raises:
        ValueError: when it is none, or has no named group.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f'the pattern of names is {pattern!r}: {error}') from error
    if pattern and not found.groupindex:
        raise ValueError(f'the pattern of names is {pattern!r}, expected groups such as (?P<datetime>[0-9]{{8}})')
    return found


class Sidecars:
    """Descriptions of the images of an archive; an item comes before a name. The time of a file says nothing.

    Args:
        archive: the folder.
        pattern: of names, see :func:`compiled`.
    """

    def __init__(self, archive: Path, pattern: re.Pattern[str]) -> None:
        self.archive, self.pattern = archive, pattern
        self._items: dict[str, dict[str, Mapping[str, Any]]] = {}

    def describe(self, path: bytes) -> Description | None:
        """What is known of an image by its path relative to the archive; None where it is nothing."""
        name = os.fsdecode(path)
        folder, base = posixpath.split(name)
        if folder not in self._items:
            self._items = {folder: dict(self._read(folder))}  # files come folder by folder
        items = self._items[folder]
        item = items.get(base) or items.get(os.path.splitext(base)[0]) or {}
        match = self.pattern.search(name) if self.pattern.pattern else None
        said = {key: value for key, value in (match.groupdict() if match else {}).items() if value is not None}
        return description_of({**said, **item}) if said or item else None

    def _read(self, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Properties of the STAC items of a folder, by the names of their assets, and by their own without .json."""
        for entry in sorted(os.scandir(self.archive / folder), key=lambda entry: entry.name):
            if not entry.name.lower().endswith('.json'):
                continue
            try:
                if not entry.is_file() or entry.stat().st_size > LARGEST:
                    continue
                item = read_json(entry.path)
                if item['type'] == 'Feature' and 'stac_version' in item:
                    links = [posixpath.normpath(str(asset['href'])) for asset in item.get('assets', {}).values()]
                    for name in [os.path.splitext(entry.name)[0], *(link for link in links if '/' not in link)]:
                        yield name, dict(item['properties'])
            except (ValueError, TypeError, KeyError, AttributeError, OSError):
                continue  # some other json, or a link to itself


def description_of(values: Mapping[str, Any]) -> Description:
    """Properties of an item, or what a name says, as far as they can be read.

    >>> description_of({'datetime': '20210601T103021', 'platform': 'S2A', 'eo:cloud_cover': 3})
    Description(time=1622543421000, platform='S2A', gsd=None, bounds=None, metadata={'eo:cloud_cover': 3})
    """
    platform = values.get('platform')
    return Description(
        time=_time(values.get('datetime') or values.get('start_datetime')),
        platform=printable(platform) if isinstance(platform, str) and platform else None,
        gsd=_meters(values.get('gsd')),
        metadata={
            printable(name): printable(value) if isinstance(value, str) else value
            for name, value in values.items()
            if name not in KNOWN and _is_kept(value)
        },
    )


def _is_kept(value: object) -> bool:
    """Whether a filter can ask for it: a text, a truth value or a number; no json has NaN and infinity."""
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _meters(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        meters = float(value)
    except (ValueError, OverflowError):
        return None
    return meters if 0 < meters < math.inf else None


def _time(text: object) -> int | None:
    """Of ISO 8601, or digits alone: 20210601, 20210601T103021 or 20210601103021."""
    digits = re.fullmatch(r'(\d{8})[T_-]?(\d{6})?Z?', str(text))
    try:
        if digits:
            day, clock = digits.groups()
            return milliseconds(datetime.strptime(day + (clock or '000000'), '%Y%m%d%H%M%S'), 'datetime')
        return milliseconds(text, 'datetime') if isinstance(text, str) else None
    except ValueError:
        return None
