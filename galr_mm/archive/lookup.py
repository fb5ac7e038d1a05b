"""What a page asks of a catalogue besides a search: a tile by its name, its neighbors, and what filters may ask for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from galr_mm.archive.catalog import LIVE, Catalog, TileRecord
from galr_mm.archive.filters import AS_TEXT
from galr_mm.archive.hits import iso_time

VALUES = 50  # of a field, above which they are not listed
PAIRS = 20_000  # of fields and values that are looked at


class Facets(NamedTuple):
    """What there is to filter by.

    Args:
        platforms: in order.
        fields: of the metadata, each with its values; none where there are more than :data:`VALUES`.
        first, last: times in ISO 8601.
        gsd: the finest and the coarsest, meters a pixel.
        boxes: whether tiles have objects.
    """

    platforms: list[str]
    fields: dict[str, list[str]]
    first: str | None
    last: str | None
    gsd: tuple[float, float] | None
    boxes: bool


def find_tile(catalog: Catalog, tile_id: str) -> TileRecord | None:
    """The tile of this name that a search may give; None where there is none."""
    found = catalog.db.execute(f'SELECT row FROM tile WHERE tile_id = ? AND state = {LIVE}', [tile_id]).fetchone()
    return catalog.tiles(found)[found[0]] if found else None


def rows_of_image(catalog: Catalog, row: int) -> np.ndarray:
    """Rows of all tiles of the image that a tile is of, rising."""
    query = (
        'SELECT other.row FROM tile JOIN tile AS other ON other.source = tile.source'
        f' WHERE tile.row = ? AND other.state = {LIVE} ORDER BY other.row'
    )
    return np.array([other for (other,) in catalog.db.execute(query, [row])], np.int64)


def facets(catalog: Catalog) -> Facets:
    """What the images that are searched say of themselves."""
    shown = "FROM source WHERE status = 'ok'"
    query = f'SELECT min(time), max(time), min(gsd), max(gsd) {shown}'
    first, last, finest, coarsest = catalog.db.execute(query).fetchone()
    query = f'SELECT DISTINCT platform {shown} AND platform IS NOT NULL ORDER BY platform LIMIT {VALUES}'
    platforms = [str(platform) for (platform,) in catalog.db.execute(query)]
    query = (
        f"SELECT DISTINCT key, {AS_TEXT} FROM source, json_each(source.metadata) WHERE status = 'ok'"
        f' AND atom IS NOT NULL LIMIT {PAIRS}'
    )
    fields: dict[str, list[str]] = {}
    for key, value in catalog.db.execute(query):
        fields.setdefault(key, []).append(value)
    listed = {key: sorted(values) if len(values) <= VALUES else [] for key, values in sorted(fields.items())}
    query = f"SELECT EXISTS (SELECT 1 FROM tile WHERE state = {LIVE} AND boxes != '[]')"
    (boxes,) = catalog.db.execute(query).fetchone()
    first, last = (None if time is None else iso_time(time) for time in (first, last))
    gsd = None if finest is None else (finest, coarsest)
    return Facets(platforms, listed, first, last, gsd, bool(boxes))
