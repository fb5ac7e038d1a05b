"""What is known of images besides their pixels, from a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from galr_mm.archive.filters import check_bounds, milliseconds
from galr_mm.archive.records import Description
from galr_mm.messages import printable
from galr_mm.utils.io import check_columns, read_rows

BOUNDS = ('west', 'south', 'east', 'north')
KNOWN = ('path', 'datetime', 'platform', 'gsd', *BOUNDS)


def read_metadata(path: str | Path) -> dict[bytes, Description]:
    """A CSV table with a column ``path`` (relative to the archive) as descriptions by path.

    Columns ``datetime`` (ISO 8601, UTC without a zone), ``platform``, ``gsd`` (meters) and ``west, south, east, north``
    (degrees, of a north-up image) have their meaning; every other one is a field of the metadata. Empty cells say
    nothing; spaces around cells and names of columns do not count.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not such a table or has no rows, a row has more or fewer cells than the first line, as
            where a file was cut off, or two rows are of one path; names the line and the value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no metadata table at {path}')
    found: dict[bytes, Description] = {}
    lines: dict[bytes, int] = {}
    with path.open(encoding='utf-8-sig', errors='surrogateescape') as file:
        rows = read_rows((line.rstrip('\n') for line in file), path)
        columns = [column.strip() for column in next(rows, (0, []))[1]]
        if 'path' not in columns:
            raise ValueError(f'{path} has the columns {columns}, expected path and others')
        check_columns(columns, path)
        for number, cells in rows:
            if not cells:
                continue
            try:
                if len(cells) != len(columns):
                    raise ValueError(f'{len(cells)} cells, expected {len(columns)} as in the first line')
                row = dict(zip(columns, cells, strict=True))
                path_of = os.fsencode(os.path.normpath(row['path'].strip()))
                description = _description(row)
                if path_of in found:
                    raise ValueError(f'path is {row["path"].strip()!r}, which line {lines[path_of]} describes too')
                found[path_of], lines[path_of] = description, number
            except ValueError as error:
                raise ValueError(f'{path} line {number}: {error}') from None
    if not found:  # cut off, or of nothing: what other tables have said would be forgotten
        raise ValueError(f'{path} has no row below its columns')
    return found


def _description(row: Mapping[str, str]) -> Description:
    cells = {name: value.strip() for name, value in row.items() if value.strip()}
    if 'path' not in cells:
        raise ValueError('no path')
    place = [cells[name] for name in BOUNDS if name in cells]
    if place and len(place) < 4:
        raise ValueError(f'{len(place)} of {", ".join(BOUNDS)}, expected all or none')
    return Description(
        time=milliseconds(cells['datetime'], 'datetime') if 'datetime' in cells else None,
        platform=printable(cells['platform']) if 'platform' in cells else None,
        gsd=_number(cells['gsd'], 'gsd', above=0) if 'gsd' in cells else None,
        bounds=check_bounds([_number(v, n) for n, v in zip(BOUNDS, place, strict=True)], 'place') if place else None,
        metadata={printable(name): printable(value) for name, value in cells.items() if name not in KNOWN},
    )


def _number(text: str, name: str, above: float = -math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= above:
        raise ValueError(f'{name} is {text!r}, expected a number{"" if above == -math.inf else f" above {above:g}"}')
    return value
