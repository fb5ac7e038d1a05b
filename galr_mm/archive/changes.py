"""What has changed in an archive since it was indexed, and the index brought up to date.

A file of equal size and time of change is not read. Any other is hashed: the content of a vanished file under another
name has moved, a known content at its own name was touched, everything else is encoded.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from galr_mm.archive.catalog import Known, described
from galr_mm.archive.records import Box, Description, Entry, FileState, Tile
from galr_mm.archive.store import ArchiveWriter
from galr_mm.imagery import Window, image_size, list_images, open_image, windows

COMMIT_TILES, COMMIT_SECONDS = 256, 20.0  # what a run that is stopped may lose
MAX_PIXELS = 1 << 28  # of an image that is decoded whole, 0.8 GiB in color
CHANGED = 'it changed while it was read; the next update takes it'


class Piece(NamedTuple):
    """What is encoded: a whole file by its path, or a window of it as BGR uint8 (h, w, 3)."""

    window: Window
    content: Path | np.ndarray


class Encoded(NamedTuple):
    """A vector (D,), and the objects in pixels of the piece."""

    vector: np.ndarray
    boxes: Sequence[Box] = ()


# pieces -> for each what it is, or why it could not be prepared
Encoder = Callable[[Sequence[Piece]], Sequence[Encoded | Exception]]


@dataclass(frozen=True)
class Cut:
    """How images are cut.

    Args:
        tile: side of a tile in pixels; None leaves images whole. An image that fits into a tile is left whole too.
        overlap: pixels that neighboring tiles share.

    Raises:
        ValueError: when tiles would not move on.
    """

    tile: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.tile is not None and not 0 <= self.overlap < self.tile:
            raise ValueError(f'overlap is {self.overlap} and tile {self.tile}, expected 0 <= overlap < tile')

    def __str__(self) -> str:
        return 'whole images' if self.tile is None else f'{self.tile} pixels, overlap {self.overlap}'

    def pieces(self, path: Path) -> tuple[tuple[int, int], Iterator[Piece]]:
        """Size of an image, and its parts, which are read when they are asked for.

        Raises:
            OSError, ValueError: when it cannot be read, or is too large to be decoded whole.
        """
        height, width = image_size(path)
        whole = self.tile is None or max(height, width) <= self.tile
        if height * width > MAX_PIXELS and (whole or not _is_stored_in_tiles(path)):
            raise ValueError(
                f'{width} x {height} pixels, more than the {MAX_PIXELS} that are decoded at a time; only a TIFF '
                'that is stored in tiles is read by windows, where images are cut'
            )
        if whole:
            return (height, width), iter([Piece(Window(0, 0, width, height), path)])
        return (height, width), self._windows(path, height, width)

    def _windows(self, path: Path, height: int, width: int) -> Iterator[Piece]:
        assert self.tile is not None
        with open_image(path) as image:
            for window in windows(height, width, self.tile, self.overlap):
                yield Piece(window, image.read(window))


@dataclass
class Report:
    """What an update did: counts of files, and of the tiles that were encoded.

    ``skipped`` holds each file that is not searched, relative to the archive, with the reason.
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
    seconds: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        names = ('kept', 'added', 'changed', 'moved', 'touched', 'returned', 'gone', 'pruned')
        counts = [f'{getattr(self, name)} {name}' for name in names if getattr(self, name) or name in ('kept', 'added')]
        return f'{", ".join(counts)}; {self.tiles} tiles encoded, {len(self.skipped)} skipped, {self.seconds:.1f} s'


def update_archive(
    writer: ArchiveWriter,
    archive: str | Path,
    encode: Encoder,
    cut: Cut,
    descriptions: Mapping[bytes, Description] | None = None,
    prune: bool = False,
    batch_size: int = 8,
    show_progress: bool = False,
) -> Report:
    """Bring an index up to date with a folder of images.

    Args:
        writer: of the index.
        archive: the folder.
        encode: gives vectors of pieces; it is called with at most ``batch_size`` of them.
        cut: how images are cut.
        descriptions: what is known of files, by path relative to the archive. None leaves what the index knows.
        prune: delete files that have vanished, in place of hiding them until they come back.
        batch_size: pieces at a time.
        show_progress: draw a bar.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when it holds no image, or ``prune`` would delete more than half of the files. They are hidden then.
        OSError: when the index cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    start, update = time.monotonic(), _Update(writer, Path(archive), encode, cut, batch_size)
    update.run(prune, show_progress)
    if descriptions is not None:
        update.describe(descriptions)
    update.report.seconds = time.monotonic() - start
    return update.report


@dataclass
class _Open:
    """A file whose pieces are being encoded."""

    path: bytes
    state: FileState
    digest: bytes
    size: tuple[int, int] | None = None
    tiles: list[Tile] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    reason: str | None = None
    waiting: int = 0  # pieces that are not encoded
    read: bool = False  # whether there are no further pieces


class _Update:
    """One run of :func:`update_archive`."""

    def __init__(self, writer: ArchiveWriter, archive: Path, encode: Encoder, cut: Cut, batch_size: int) -> None:
        self.writer, self.catalog, self.archive = writer, writer.catalog, archive
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

    def describe(self, descriptions: Mapping[bytes, Description]) -> None:
        """Write what is known of files, where it is not what the index knows."""
        with self.catalog.transaction():
            for path, file in self.catalog.sources().items():
                description = descriptions.get(path, Description())
                if described(description) != file.described:
                    self.catalog.describe(file.id, description)

    def _list(self) -> list[bytes]:
        if not self.archive.is_dir():
            raise FileNotFoundError(f'no archive folder at {self.archive}')
        _, names = list_images(self.archive)
        own = os.path.relpath(os.path.realpath(self.writer.folder), os.path.realpath(self.archive)) + os.sep
        return [os.fsencode(name) for name in names if not name.startswith(own)]

    def _is_kept(self, path: bytes) -> bool:
        file = self.known.get(path)
        try:
            kept = file is not None and file.status != 'unreadable' and FileState.of(self._full(path)) == file.state
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
            opened.size, pieces = self.cut.pieces(self._full(opened.path))
            yield from pieces
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
                opened.tiles.append(Tile(piece.window, boxes))
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
        vectors = np.stack(opened.vectors).astype(np.float32, copy=False)
        entry = Entry(opened.path, opened.state, opened.digest, opened.size, opened.tiles, vectors)
        self.ready.append(entry)

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


def _is_stored_in_tiles(path: Path) -> bool:
    if path.suffix.lower() not in ('.tif', '.tiff') or find_spec('tifffile') is None:
        return False
    import tifffile

    with tifffile.TiffFile(path) as file:
        return bool(file.pages[0].is_tiled)


def digest_of(path: str | Path) -> bytes:
    """A hash of a file's content.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def reason_of(error: Exception) -> str:
    """Why a file was skipped, in one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
