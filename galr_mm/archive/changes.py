"""What has changed in an archive since it was indexed, and the index brought up to date.

A file of equal size and time of change is not read. Any other is hashed: the content of a vanished file under another
name has moved, a known content at its own name was touched, everything else is encoded.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from galr_mm.archive.catalog import Known, described
from galr_mm.archive.cutting import Cut, Piece, Source
from galr_mm.archive.records import Box, Description, Entry, FileState, Tile, digest_of
from galr_mm.archive.sidecars import PATTERN, Sidecars, compiled
from galr_mm.archive.store import ArchiveWriter
from galr_mm.functional.checks import check_whole
from galr_mm.imagery import list_images
from galr_mm.messages import printable, shorten

COMMIT_TILES, COMMIT_SECONDS = 256, 20.0  # what a run that is stopped may lose
CHANGED = 'it changed while it was read; the next update takes it'


class Encoded(NamedTuple):
    """A vector (D,), and the objects in pixels of the piece."""

    vector: np.ndarray
    boxes: Sequence[Box] = ()


# pieces -> for each what it is, or why it could not be prepared
Encoder = Callable[[Sequence[Piece]], Sequence[Encoded | Exception]]


@dataclass
class Report:
    """What an update did: counts of files, and of the tiles that were encoded.

    ``skipped`` holds each file that is not searched, relative to the archive, with the reason. Of the scenes that were
    encoded, ``unplaced`` are without a place on Earth, and ``empty_tiles`` hold too little data to be searched.
    ``unmatched`` holds the paths that are described and are not of the archive.
    """

    kept: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    touched: int = 0
    returned: int = 0
    gone: int = 0
    pruned: int = 0
    tiles: int = 0
    unplaced: int = 0
    empty_tiles: int = 0
    seconds: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        names = ('kept', 'added', 'changed', 'moved', 'touched', 'returned', 'gone', 'pruned')
        counts = [f'{getattr(self, name)} {name}' for name in names if getattr(self, name) or name in ('kept', 'added')]
        done = [f'{self.tiles} tiles encoded', f'{len(self.skipped)} skipped', f'{self.seconds:.1f} s']
        done[1:1] = [f'{self.empty_tiles} without data'] if self.empty_tiles else []
        done[1:1] = [f'{self.unplaced} scenes without a place'] if self.unplaced else []
        if self.unmatched:
            rows = f'{len(self.unmatched)} row{"s" if len(self.unmatched) > 1 else ""} of the table'
            done.insert(-1, f'{rows} without a file in the archive, first {shorten(printable(self.unmatched[0]))}')
        return f'{", ".join(counts)}; {", ".join(done)}'


def update_archive(
    writer: ArchiveWriter,
    archive: str | Path,
    encode: Encoder,
    cut: Cut,
    descriptions: Mapping[bytes, Description] | None = None,
    prune: bool = False,
    batch_size: int = 8,
    show_progress: bool = False,
    name_pattern: str | None = None,
) -> Report:
    """Bring an index up to date with a folder of images.

    Args:
        writer: of the index.
        archive: the folder.
        encode: gives vectors of pieces; it is called with at most ``batch_size`` of them.
        cut: how images are cut.
        descriptions: what is known of files, by path relative to the archive; it comes before what STAC items beside
            the files and their names say. None leaves what the index knows.
        prune: delete files that have vanished, in place of hiding them until they come back.
        batch_size: pieces at a time.
        show_progress: draw a bar.
        name_pattern: what names of files say, see :func:`galr_mm.archive.sidecars.compiled`. None takes the pattern
            of the last time, '' none.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it holds no image, or ``prune`` would delete more than half of the files. They are hidden then.
        OSError: when the index cannot be written.
    """
    check_whole('batch_size', batch_size)
    pattern = compiled(writer.meta.get(PATTERN, '') if name_pattern is None else name_pattern)
    start, update = time.monotonic(), _Update(writer, Path(archive), encode, cut, batch_size)
    update.run(prune, show_progress)
    update.describe(descriptions, pattern)
    update.report.seconds = time.monotonic() - start
    return update.report


@dataclass
class _Open:
    """A file whose pieces are being encoded."""

    path: bytes
    state: FileState
    digest: bytes
    source: Source | None = None
    tiles: list[Tile] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    reason: str | None = None
    waiting: int = 0  # pieces that are not encoded
    read: bool = False  # whether there are no further pieces


class _Update:
    """One run of :func:`update_archive`."""

    def __init__(self, writer: ArchiveWriter, archive: Path, encode: Encoder, cut: Cut, batch_size: int) -> None:
        self.writer, self.catalog, self.archive = writer, writer.catalog, archive
        self.root = os.fsencode(archive)
        self.encode, self.cut, self.batch_size = encode, cut, batch_size
        self.report = Report()
        self.known = self.catalog.sources()
        self.movable: dict[bytes, Known] = {}  # files that are not where they were, by content
        self.moved: set[int] = set()  # those that were found elsewhere
        self.batch: list[tuple[_Open, Piece]] = []
        self.marks: list[Callable[[], None]] = []  # changes of the catalogue that need no vectors
        self.ready: list[Entry] = []
        self.committed = time.monotonic()

    def run(self, prune: bool, show_progress: bool) -> None:
        """Compare, encode, commit."""
        names = self._list()
        self.marks.append(lambda: self.catalog.set_meta(archive=os.fsencode(os.path.abspath(self.archive)).hex()))
        changed = [path for path in names if not self._is_kept(path)]
        present = set(names)
        missing = {path: file for path, file in self.known.items() if path not in present}
        self.movable = {file.digest: file for file in missing.values() if file.status != 'unreadable'}
        for path in tqdm(changed, desc='indexing', unit='file', disable=not show_progress):
            self._take(path)
            tiles = sum(len(entry.tiles) for entry in self.ready)
            if tiles >= COMMIT_TILES or time.monotonic() - self.committed > COMMIT_SECONDS:
                self._commit()
        self._encode()
        self._commit()
        self._vanished([file for file in missing.values() if file.id not in self.moved], prune)

    def describe(self, table: Mapping[bytes, Description] | None, pattern: re.Pattern[str]) -> None:
        """Write what is known of files besides their pixels, where it is not what the index knows."""
        sidecars, nothing = Sidecars(self.archive, pattern), Description()
        as_text = described(nothing)
        with self.catalog.transaction():
            self.catalog.set_meta(**{PATTERN: pattern.pattern})
            sources = self.catalog.sources()
            self.report.unmatched = [os.fsdecode(path) for path in table or () if path not in sources]
            for path, file in sources.items():
                said = None if table is None else table.get(path, nothing)
                found = None if file.status == 'gone' else sidecars.describe(path) or nothing
                new = [
                    None if known is None else described(known) if known != nothing else as_text
                    for known in (said, found)
                ]
                if any(text not in (None, old) for text, old in zip(new, (file.described, file.found), strict=True)):
                    self.catalog.describe(file.id, said, found)

    def _list(self) -> list[bytes]:
        if not self.archive.is_dir():
            raise FileNotFoundError(f'no archive folder at {self.archive}')
        _, names = list_images(self.archive)
        own = os.path.relpath(os.path.realpath(self.writer.folder), os.path.realpath(self.archive)) + os.sep
        return [os.fsencode(name) for name in names if not name.startswith(own)]

    def _is_kept(self, path: bytes) -> bool:
        file = self.known.get(path)
        try:
            kept = (
                file is not None
                and file.status != 'unreadable'
                and FileState.of(os.path.join(self.root, path)) == file.state
            )
        except OSError:  # removed since the folder was listed, or not to be looked at
            return False
        if kept and file is not None:
            self.report.kept += 1
            if file.status == 'gone':
                self.report.returned += 1
                self.marks.append(partial(self.catalog.show, [file.id]))
        return kept

    def _full(self, path: bytes) -> Path:
        return self.archive / os.fsdecode(path)

    def _take(self, path: bytes) -> None:
        """One file that is new, of another size or time, or could not be read before."""
        file, full = self.known.get(path), self._full(path)
        try:
            state = FileState.of(full)
            digest = digest_of(full)
        except OSError as error:
            self._skip(path, reason_of(error))
            return
        if file is not None and file.digest == digest and file.status != 'unreadable':
            self.report.touched += 1
            self.marks += [partial(self.catalog.set_state, file.id, state), partial(self.catalog.show, [file.id])]
            return
        moved = self.movable.pop(digest, None)
        if moved is not None:
            self.report.moved += 1
            self.moved.add(moved.id)
            self.marks.append(partial(self.catalog.move, moved.id, path, state))
            return
        opened = _Open(path, state, digest)
        for piece in self._pieces(opened):
            opened.waiting += 1
            self.batch.append((opened, piece))
            if len(self.batch) == self.batch_size:
                self._encode()
            if opened.reason:
                break
        opened.read = True
        self._close(opened)

    def _pieces(self, opened: _Open) -> Iterator[Piece]:
        try:
            opened.source = self.cut.open(self._full(opened.path))
            yield from opened.source.pieces
        except Exception as error:  # decoders raise many kinds on broken files
            opened.reason = reason_of(error)

    def _encode(self) -> None:
        """Encode the pieces that wait, and close the files whose last ones they were."""
        batch, self.batch = self.batch, []
        if not batch:
            return
        for (opened, piece), result in zip(batch, self.encode([piece for _, piece in batch]), strict=True):
            opened.waiting -= 1
            if isinstance(result, Exception):
                opened.reason = opened.reason or reason_of(result)
            elif not np.isfinite(result.vector).all():
                opened.reason = opened.reason or 'the model gives no finite vector for it'
            else:
                left, top = piece.window[:2]
                boxes = [Box(b.left + left, b.top + top, b.right + left, b.bottom + top, *b[4:]) for b in result.boxes]
                opened.tiles.append(Tile(piece.window, boxes, piece.valid))
                opened.vectors.append(result.vector)
        for opened in {id(opened): opened for opened, _ in batch}.values():
            self._close(opened)

    def _close(self, opened: _Open) -> None:
        """Let a file be written, once all of it is encoded."""
        if not opened.read or opened.waiting:
            return
        try:
            changed = FileState.of(self._full(opened.path)) != opened.state
        except OSError as error:
            self._skip(opened.path, reason_of(error))
            return
        if changed:
            self._skip(opened.path, CHANGED)
            return
        scene = None
        if opened.source is not None and opened.reason is None:
            try:
                opened.tiles, scene = opened.source.finish(opened.tiles)
            except ValueError as error:
                opened.reason = reason_of(error)
        if opened.reason is not None:
            self._skip(opened.path, opened.reason)
            self.ready.append(Entry(opened.path, opened.state, opened.digest, reason=opened.reason))
            return
        file = self.known.get(opened.path)
        if file is None or file.status == 'unreadable':
            self.report.added += 1
        else:
            self.report.changed += 1
        self.report.tiles += len(opened.tiles)
        if scene is not None:
            self.report.unplaced += scene.unplaced is not None
            self.report.empty_tiles += scene.empty_tiles
        assert opened.source is not None  # without a reason it was read
        vectors = np.stack(opened.vectors).astype(np.float32, copy=False)
        size = opened.source.size
        self.ready.append(Entry(opened.path, opened.state, opened.digest, size, opened.tiles, vectors, scene=scene))

    def _skip(self, path: bytes, reason: str) -> None:
        self.report.skipped.append((os.fsdecode(path), reason))

    def _commit(self) -> None:
        if self.marks:
            with self.catalog.transaction():
                for mark in self.marks:
                    mark()
            self.marks = []
        if self.ready:
            self.writer.put(self.ready)
            self.ready = []
        self.committed = time.monotonic()

    def _vanished(self, files: Sequence[Known], prune: bool) -> None:
        """Hide or delete files that are not there any more; what could not be read has nothing to hide."""
        hidden = [file.id for file in files if file.status == 'ok']
        self.report.gone = len(hidden)
        refused = prune and len(files) > len(self.known) / 2
        deleted = [file.id for file in files if file.status == 'unreadable' or (prune and not refused)]
        with self.catalog.transaction():
            self.catalog.hide(hidden)
            self.catalog.delete(deleted)
        if refused:
            raise ValueError(
                f'{len(files)} of {len(self.known)} files of the index are not in {self.archive}: too many to be '
                'deleted, is it the right folder, and is its disk mounted? They are hidden until they come back'
            )
        if prune:
            self.report.pruned = len(deleted)


def reason_of(error: Exception) -> str:
    """Why a file was skipped, in one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
