"""The catalogue of an archive: which files, which tiles, where and when, in one SQLite file.

A tile's row is its place in the vector shards. Rows are never used twice between two compactions: a tile of a file that
vanished is hidden and comes back with the file, a replaced or pruned one is deleted, and both are only marks.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from galr_mm.archive.connection import connect
from galr_mm.archive.filters import Where
from galr_mm.archive.records import (
    Bounds,
    Description,
    Entry,
    FileState,
    TileRecord,
    part_of,
    record_of,
    tile_id,
)
from galr_mm.imagery import Window
from galr_mm.messages import reason, shorten

FORMAT = '2'
NAME = 'catalog.sqlite'
META = dict(  # patterns, in which \0 stands for what is missing
    dim=('[1-9][0-9]{0,8}', 'a whole number of 1 or more'),
    shard_rows=('[1-9][0-9]{0,8}', 'a whole number of 1 or more'),
    fingerprint=('[0-9a-f]+', 'hexadecimal digits'),
    model=('[^\0]+', 'words'),
    archive=('([0-9a-f]{2})*', 'the bytes of a path in hexadecimal digits'),
)
LIVE, HIDDEN, DELETED = 0, 1, 2
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE shard (position INTEGER PRIMARY KEY, file INTEGER NOT NULL UNIQUE);
CREATE TABLE source (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, status TEXT NOT NULL CHECK (status IN ('ok', 'unreadable', 'gone')), reason TEXT,
    height INTEGER, width INTEGER, time INTEGER, platform TEXT, gsd REAL,
    metadata TEXT NOT NULL, described TEXT NOT NULL, found TEXT NOT NULL, scene TEXT, pixel_size REAL
);
CREATE TABLE tile (
    row INTEGER PRIMARY KEY, tile_id TEXT NOT NULL, source INTEGER NOT NULL,
    left INTEGER NOT NULL, top INTEGER NOT NULL, right INTEGER NOT NULL, bottom INTEGER NOT NULL, valid REAL,
    boxes TEXT NOT NULL, west REAL, south REAL, east REAL, north REAL, footprint TEXT, state INTEGER NOT NULL
);
CREATE UNIQUE INDEX tile_by_id ON tile (tile_id) WHERE state != {DELETED};
CREATE INDEX tile_by_source ON tile (source);
CREATE INDEX tile_not_live ON tile (row) WHERE state != {LIVE};
CREATE VIRTUAL TABLE place USING rtree (id, west, east, south, north);
"""


def missing(folder: str | Path) -> FileNotFoundError:
    """A folder that is no index, and how to make one."""
    return FileNotFoundError(
        f'no archive index at {folder}: it has no {NAME}; make one: archive.py index IMAGES --index {folder}'
    )


class Known(NamedTuple):
    """A file that the catalogue knows."""

    id: int
    state: FileState
    digest: bytes
    status: str
    reason: str | None
    described: str
    found: str


class Catalog:
    """One connection. Readers see what was committed when their transaction began, whatever a writer does meanwhile.

    Args:
        folder: of the index.
        write: whether to change it; the caller holds the lock.

    Raises:
        FileNotFoundError: when there is no catalogue.
        ValueError: when the file is not one, or of another format.
        OSError: when it cannot be read whole where nothing can be written, see
            :func:`galr_mm.archive.connection.connect`.
    """

    def __init__(self, folder: str | Path, write: bool = False) -> None:
        self.path = Path(folder, NAME)
        if not self.path.is_file():
            raise missing(folder)
        try:
            self.db = connect(self.path, 'rw' if write else 'ro')
            found = dict(self.db.execute('SELECT key, value FROM meta')).get('format')
        except sqlite3.DatabaseError as error:
            raise ValueError(f'{self.path} cannot be read as the catalogue of an archive: {error}') from error
        try:
            if found != FORMAT:
                raise ValueError(f'{self.path} is of format {found}, this version of galr_mm reads format {FORMAT}')
            self.meta()
        except ValueError:
            self.db.close()
            raise

    @staticmethod
    def create(folder: str | Path, meta: Mapping[str, str]) -> None:
        """Make an empty catalogue, or none at all: a half-made file has no name that counts."""
        path = Path(folder, NAME)
        part = path.with_name(f'.{NAME}.part')
        for left in path.parent.glob(f'{part.name}*'):  # with SQLite's journal, of a process that was killed
            left.unlink()
        db = connect(part, 'rwc')
        db.executescript(f'BEGIN; {SCHEMA} COMMIT;')
        db.executemany('INSERT INTO meta VALUES (?, ?)', {**meta, 'format': FORMAT}.items())
        db.close()
        part.replace(path)

    def close(self) -> None:
        """End the connection."""
        self.db.close()

    @contextmanager
    def transaction(self, write: bool = True) -> Iterator[None]:
        """All of the block or nothing; for a reader, one state of the catalogue."""
        self.db.execute('BEGIN IMMEDIATE' if write else 'BEGIN')
        try:
            yield
        except BaseException:
            if self.db.in_transaction:  # SQLite itself rolls back where the disk is full
                self.db.execute('ROLLBACK')
            raise
        self.db.execute('COMMIT')

    # what is there

    def meta(self) -> dict[str, str]:
        """Settings of the index by name.

        Raises:
            ValueError: when one is missing or damaged; names file, key and value.
        """
        values = dict(self.db.execute('SELECT key, value FROM meta'))
        for key, (pattern, expected) in META.items():
            if not re.fullmatch(pattern, text if isinstance(text := values.get(key), str) else '\0'):
                raise ValueError(f'{self.path} is damaged: {key} of meta is {shorten(text)}, expected {expected}')
        return values

    def version(self) -> tuple[int, int]:
        """What changes with each commit, of another connection or of this one."""
        return self.db.execute('PRAGMA data_version').fetchone()[0], self.db.total_changes

    def rows(self) -> int:
        """Rows of the shards that count."""
        return self.db.execute('SELECT coalesce(max(row) + 1, 0) FROM tile').fetchone()[0]

    def shards(self) -> list[int]:
        """Numbers of the shard files, in the order of their rows."""
        return [file for (file,) in self.db.execute('SELECT file FROM shard ORDER BY position')]

    def sources(self) -> dict[bytes, Known]:
        """All files by their path."""
        return dict(self._sources())

    def source(self, path: bytes) -> Known | None:
        """One file by its path; None where it is not known."""
        return dict(self._sources('WHERE path = ?', [path])).get(path)

    def _sources(self, condition: str = '', values: Sequence[Any] = ()) -> Iterator[tuple[bytes, Known]]:
        query = f'SELECT path, id, size, mtime_ns, digest, status, reason, described, found FROM source {condition}'
        for path, number, size, mtime, *known in self.db.execute(query, values):
            yield path, Known(number, FileState(size, mtime), *known)

    def counts(self) -> dict[str, int]:
        """Files by status, and tiles: those that are searched, and all rows of the shards."""
        files = dict(self.db.execute('SELECT status, count(*) FROM source GROUP BY status'))
        live = self.db.execute(f'SELECT count(*) FROM tile WHERE state = {LIVE}').fetchone()[0]
        placed = self.db.execute(f'SELECT count(*) FROM tile WHERE state = {LIVE} AND west IS NOT NULL').fetchone()[0]
        return {status: files.get(status, 0) for status in ('ok', 'unreadable', 'gone')} | dict(
            tiles=live, placed=placed, rows=self.rows()
        )

    def scene_counts(self) -> dict[str, int]:
        """Scenes that are searched, those of them without a place, and their tiles that are left out."""
        counts = self.db.execute(
            "SELECT count(*), count(json_extract(scene, '$.unplaced')),"
            " coalesce(sum(json_extract(scene, '$.empty_tiles')), 0) FROM source WHERE status = 'ok' AND scene NOT NULL"
        ).fetchone()
        return dict(zip(('scenes', 'unplaced', 'empty_tiles'), counts, strict=True))

    def rows_not_live(self) -> np.ndarray:
        """Rows that no search gives, rising."""
        return self._column(f'SELECT row FROM tile WHERE state != {LIVE} ORDER BY row')

    def rows_not_deleted(self) -> np.ndarray:
        """Rows that a compaction keeps, rising."""
        return self._column(f'SELECT row FROM tile WHERE state != {DELETED} ORDER BY row')

    def rows_where(self, where: Where) -> np.ndarray:
        """Rows of the tiles that pass a filter, rising."""
        condition, values = where.condition()
        return self._column(
            f'SELECT tile.row FROM tile JOIN source ON source.id = tile.source WHERE tile.state = {LIVE}'
            f' AND {condition} ORDER BY tile.row',
            values,
        )

    def _column(self, query: str, values: Sequence[Any] = ()) -> np.ndarray:
        return np.fromiter((row for (row,) in self.db.execute(query, values)), np.int64)

    def rows_of(self, path: bytes) -> np.ndarray:
        """Rows of the tiles of a file, rising."""
        return self._column(
            'SELECT tile.row FROM tile JOIN source ON source.id = tile.source'
            f' WHERE tile.state = {LIVE} AND path = ? ORDER BY tile.row',
            [path],
        )

    def tiles(self, rows: Iterable[int]) -> dict[int, TileRecord]:
        """What is known of tiles, by row, in one query.

        Raises:
            ValueError: when a row is of no tile, or what is written of it is damaged; names it.
        """
        query = (
            'SELECT tile.row, tile_id, path, height, width, left, top, right, bottom, boxes, valid, west, south, east,'
            ' north, time, platform, gsd, metadata, footprint, scene FROM tile JOIN source ON source.id = tile.source'
            ' WHERE tile.row IN (SELECT value FROM json_each(?))'
        )
        asked, found = [int(row) for row in rows], {}
        for row, name, *values in self.db.execute(query, [json.dumps(asked)]):
            try:
                found[row] = record_of(row, name, *values)
            except (ValueError, TypeError) as error:
                raise ValueError(f'{self.path} is damaged at tile {name}: {reason(error)}') from error
        if lost := [row for row in asked if row not in found]:
            raise ValueError(f'{self.path} is damaged: row {lost[0]} is of no tile of a file')
        return found

    # changes, within a transaction

    def set_meta(self, **values: str) -> None:
        """Write settings."""
        self.db.executemany('INSERT OR REPLACE INTO meta VALUES (?, ?)', values.items())

    def stamp(self, key: str = 'commit') -> None:
        """Give the state of the tiles a new name, by which others tell whether they hold the same; or the index one."""
        self.db.execute('INSERT OR REPLACE INTO meta VALUES (?, lower(hex(randomblob(8))))', [key])

    def set_shards(self, files: Sequence[int]) -> None:
        """Write the numbers of the shard files."""
        self.db.execute('DELETE FROM shard')
        self.db.executemany('INSERT INTO shard VALUES (?, ?)', enumerate(files))

    def put(self, entry: Entry, first_row: int) -> None:
        """Write a file and its tiles, whose vectors begin at ``first_row``; what was there of this path is deleted."""
        known = self.db.execute('SELECT id FROM source WHERE path = ?', [entry.path]).fetchone()
        if known:
            self._mark([known[0]], DELETED)
        height, width = entry.image_size or (None, None)
        status = 'ok' if entry.reason is None else 'unreadable'
        scene = None if entry.scene is None else _text(entry.scene._asdict())
        nothing = described(Description())
        values = dict(
            path=entry.path, size=entry.state.size, mtime_ns=entry.state.mtime_ns, digest=entry.digest, status=status,
            reason=entry.reason, height=height, width=width, scene=scene,
            pixel_size=entry.scene and entry.scene.pixel_size,
        )  # fmt: skip
        self.db.execute(
            f'INSERT INTO source ({", ".join(values)}, metadata, described, found)'
            f" VALUES ({', '.join('?' * len(values))}, '{{}}', ?, ?) ON CONFLICT (path) DO UPDATE SET"
            f' {", ".join(f"{name} = excluded.{name}" for name in values)}',
            [*values.values(), nothing, nothing],
        )
        source, is_known = self.db.execute(
            'SELECT id, described != ? OR found != ? OR pixel_size NOT NULL FROM source WHERE path = ?',
            [nothing, nothing, entry.path],
        ).fetchone()
        for row, tile in enumerate(entry.tiles, first_row):
            place, geometry = tile.footprint or (None, None)
            self.db.execute(
                'INSERT INTO tile (row, tile_id, source, left, top, right, bottom, valid, boxes, west, south, east,'
                ' north, footprint, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
                [row, tile_id(entry.path, tile.window), source, *tile.window, tile.valid, json.dumps(tile.boxes),
                 *(place or [None] * 4), geometry and json.dumps(geometry), LIVE],
            )  # fmt: skip
            if place is not None:
                self._place(row, place)
        if is_known:
            self.describe(source)

    def describe(self, source: int, said: Description | None = None, found: Description | None = None) -> None:
        """Write what is known of a file besides its pixels, and where its tiles lie.

        Args:
            source: the file.
            said: what a table says of it. None leaves what is known.
            found: what counts where the table says nothing, likewise.
        """
        known = self.db.execute('SELECT described, found FROM source WHERE id = ?', [source]).fetchone()
        texts = [old if new is None else described(new) for old, new in zip(known, (said, found), strict=True)]
        first, second = (self._description(source, text) for text in texts)
        values = {name: second[name] if value is None else value for name, value in first.items()}
        self.db.execute(
            'UPDATE source SET time = ?, platform = ?, gsd = coalesce(?, pixel_size), metadata = ?, described = ?,'
            ' found = ? WHERE id = ?',
            [values['time'], values['platform'], values['gsd'], _text({**second['metadata'], **first['metadata']}),
             *texts, source],
        )  # fmt: skip
        self._place_tiles(source)

    def _place_tiles(self, source: int) -> None:
        query = (
            'SELECT row, left, top, right, bottom, source.height, source.width, described FROM tile JOIN source'
            ' ON source.id = tile.source WHERE source = ? AND footprint IS NULL'
            f' AND state != {DELETED}'
        )
        for row, *window, height, width, known in self.db.execute(query, [source]).fetchall():
            bounds = self._description(source, known)['bounds']
            place = bounds and part_of(bounds, Window(*window), (height, width))
            self.db.execute(
                'UPDATE tile SET west = ?, south = ?, east = ?, north = ? WHERE row = ?', [*(place or [None] * 4), row]
            )
            self._place(row, place)

    def _description(self, source: int, text: Any) -> dict[str, Any]:
        try:
            values = json.loads(text)
            if values.keys() == {known.name for known in fields(Description)} and isinstance(values['metadata'], dict):
                return values
        except (ValueError, TypeError, AttributeError):
            pass
        raise ValueError(f'{self.path} is damaged: described of source {source} is {shorten(text)}')

    def _place(self, row: int, bounds: Bounds | None) -> None:
        """Write a tile's entries of the R*Tree: two where it crosses the antimeridian."""
        self.db.execute('DELETE FROM place WHERE id IN (?, ?)', [2 * row, 2 * row + 1])
        if bounds is not None:
            west, south, east, north = bounds
            parts = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
            self.db.executemany(
                'INSERT INTO place VALUES (?, ?, ?, ?, ?)',
                [[2 * row + part, left, right, south, north] for part, (left, right) in enumerate(parts)],
            )

    def set_state(self, source: int, state: FileState) -> None:
        """A file was touched, not changed."""
        self.db.execute('UPDATE source SET size = ?, mtime_ns = ? WHERE id = ?', [*state, source])

    def move(self, source: int, path: bytes, state: FileState) -> None:
        """A file has another name: its tiles stay, under names that follow."""
        there = self.db.execute('SELECT id FROM source WHERE path = ? AND id != ?', [path, source]).fetchall()
        self.delete([other for (other,) in there])
        self.db.execute('UPDATE source SET path = ? WHERE id = ?', [path, source])
        self.set_state(source, state)
        self.show([source])
        query = f'SELECT row, left, top, right, bottom FROM tile WHERE source = ? AND state != {DELETED}'
        for row, *window in self.db.execute(query, [source]).fetchall():
            self.db.execute('UPDATE tile SET tile_id = ? WHERE row = ?', [tile_id(path, Window(*window)), row])

    def show(self, sources: Sequence[int]) -> None:
        """Files that had vanished are there again."""
        self.db.executemany("UPDATE source SET status = 'ok' WHERE id = ? AND status = 'gone'", [[s] for s in sources])
        query = f'UPDATE tile SET state = {LIVE} WHERE source = ? AND state = {HIDDEN}'
        if self.db.executemany(query, [[source] for source in sources]).rowcount > 0:
            self.stamp()

    def hide(self, sources: Sequence[int]) -> None:
        """Files have vanished: their tiles are not searched."""
        self.db.executemany("UPDATE source SET status = 'gone' WHERE id = ?", [[source] for source in sources])
        self._mark(sources, HIDDEN)

    def delete(self, sources: Sequence[int]) -> None:
        """Forget files; their vectors go with the next compaction."""
        self._mark(sources, DELETED)
        # a deleted tile belongs to no file, but its row counts until the shards are compacted
        self.db.executemany('UPDATE tile SET source = 0 WHERE source = ?', [[source] for source in sources])
        self.db.executemany('DELETE FROM source WHERE id = ?', [[source] for source in sources])

    def _mark(self, sources: Sequence[int], state: int) -> None:
        for source in sources:
            if state == DELETED:
                rows = self._column(f'SELECT row FROM tile WHERE source = ? AND state != {DELETED}', [source])
                ids = [[id] for row in rows.tolist() for id in (2 * row, 2 * row + 1)]
                self.db.executemany('DELETE FROM place WHERE id = ?', ids)
            query = f'UPDATE tile SET state = {state} WHERE source = ? AND state != {DELETED}'
            if self.db.execute(query, [source]).rowcount:
                self.stamp()

    def renumber(self, rows: np.ndarray) -> None:
        """Let the tiles of these rows, rising, be 0, 1, ... and drop all others."""
        self.db.execute(f'DELETE FROM tile WHERE state = {DELETED}')
        self.db.execute('DELETE FROM place')
        moved = [(new, old) for new, old in enumerate(rows.tolist()) if new != old]
        self.db.executemany('UPDATE tile SET row = ? WHERE row = ?', moved)  # downwards, so none meets another
        query = 'SELECT row, west, south, east, north FROM tile WHERE west IS NOT NULL'
        for row, *bounds in self.db.execute(query).fetchall():
            self._place(row, (bounds[0], bounds[1], bounds[2], bounds[3]))


def described(description: Description) -> str:
    """One text for equal descriptions."""
    return _text(asdict(description))


def _text(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
