"""An index on disk: opened by many readers, or by one writer.

``catalog.sqlite`` says what is there, ``vectors/NNNNN.f32`` hold the vectors. A batch of vectors is on the disk before
the catalogue says so, in one transaction: stopped anywhere, the index is that of the last commit.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from galr_mm.archive.catalog import NAME, Catalog, missing
from galr_mm.archive.records import Entry, FileState, digest_of
from galr_mm.archive.shards import FOLDER, SHARD_ROWS, Shards, gather
from galr_mm.messages import shorten
from galr_mm.structures import Place, SceneEmbeddings
from galr_mm.utils.io import file_lock

COPIED = 1 << 13  # rows that a compaction holds in memory


class ModelId(NamedTuple):
    """What must be the same for vectors to be comparable, how long they are, and the same in words."""

    fingerprint: str
    dim: int
    words: str

    def require(self, folder: str | Path, meta: Mapping[str, str]) -> None:
        """Refuse an index of another model.

        Raises:
            ValueError: names both models.
        """
        if meta['fingerprint'] != self.fingerprint:
            raise ValueError(
                f'{folder} holds vectors of another model: {meta["model"]}, fingerprint {meta["fingerprint"][:12]}; '
                f'this one is {self.words}, fingerprint {self.fingerprint[:12]}. Weights, test pipeline, vocabulary '
                'and detector must be those that filled the index (--model and --checkpoint)'
            )
        if meta['dim'] != str(self.dim):
            raise ValueError(f'{Path(folder, NAME)} has vectors of {meta["dim"]} values, the model gives {self.dim}')


class Snapshot(NamedTuple):
    """One state of an index: mapped vectors by file, rows of a file, the rows that are not searched, its name.

    The name changes with what is searched; two states of one name hold the same vectors in the same rows.
    """

    rows: int
    parts: list[np.ndarray]
    shard_rows: int
    not_live: np.ndarray
    commit: str = ''

    @property
    def live(self) -> int:
        """How many tiles are searched."""
        return self.rows - len(self.not_live)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of some rows, float32 (n, D)."""
        return gather(self.parts, self.shard_rows, rows)


class ArchiveIndex:
    """An index that is read; a writer may change it meanwhile.

    Args:
        folder: of the index.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: when it is of another format.
    """

    def __init__(self, folder: str | Path, write: bool = False) -> None:
        self.folder = Path(folder)
        self.catalog = Catalog(folder, write)
        self.meta = self.catalog.meta()
        self.dim = int(self.meta['dim'])
        self.shards = Shards(folder, self.dim, int(self.meta['shard_rows']))
        self._mapped: dict[int, np.ndarray] = {}
        self._not_live: tuple[tuple[int, int], np.ndarray] | None = None

    def close(self) -> None:
        """Let go of the files."""
        self._mapped.clear()
        self.catalog.close()

    def __enter__(self) -> ArchiveIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def archive(self) -> Path:
        """The folder of images, as it was last updated."""
        return Path(os.fsdecode(bytes.fromhex(self.catalog.meta()['archive'])))

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One state of catalogue and vectors for the length of the block.

        Raises:
            OSError, ValueError: when files of the vectors are missing or too short.
        """
        for remaining in reversed(range(5)):
            with self.catalog.transaction(write=False):
                try:
                    state = self._load()
                except FileNotFoundError:  # a compaction ended between its catalogue and our look at its files
                    if not remaining:
                        raise
                    continue
                yield state
                return

    def files(self) -> dict[int, int]:
        """How many of the rows each file of vectors holds, by its number, in order.

        Raises:
            ValueError: when the catalogue names more or fewer files than its rows fill.
        """
        rows, files = self.catalog.rows(), self.catalog.shards()
        if len(files) != -(-rows // self.shards.shard_rows) or not all(isinstance(file, int) for file in files):
            raise ValueError(
                f'{self.catalog.path} is damaged: table shard has {shorten(files)} for {rows} rows, '
                f'{self.shards.shard_rows} a file'
            )
        return dict(zip(files, self.shards.lengths(rows), strict=True))

    def _load(self) -> Snapshot:
        rows = self.catalog.rows()
        mapped = {}
        for file, length in self.files().items():
            old = self._mapped.get(file)
            mapped[file] = old if old is not None and len(old) == length else self.shards.map(file, length)
        self._mapped = mapped
        version = self.catalog.version()
        if self._not_live is None or self._not_live[0] != version:
            self._not_live = version, self.catalog.rows_not_live()
        commit = self.catalog.meta().get('commit', '')
        return Snapshot(rows, list(mapped.values()), self.shards.shard_rows, self._not_live[1], commit)


class ArchiveWriter(ArchiveIndex):
    """The one that changes an index, see :func:`open_writer`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, write=True)
        for key in {'id', 'commit'} - self.meta.keys():
            self.catalog.stamp(key)
        self.meta = self.catalog.meta()
        self.shards.clean(list(self.files()), self.catalog.rows())

    def put(self, entries: Sequence[Entry]) -> None:
        """Write files with their tiles; all are there then, or none.

        Raises:
            ValueError: when vectors are not finite or of another width.
            OSError: when they cannot be written.
        """
        counts = [len(entry.tiles) for entry in entries]
        filled = [entry.vectors for entry in entries if entry.tiles]
        vectors = np.concatenate(filled) if filled else np.zeros((0, self.dim), np.float32)
        if vectors.shape != (sum(counts), self.dim) or not np.isfinite(vectors).all():
            raise ValueError(f'expected finite vectors {(sum(counts), self.dim)}, got {vectors.shape}')
        rows, files = self.catalog.rows(), self.catalog.shards()
        new_files = self.shards.append(files, rows, vectors)
        with self.catalog.transaction():
            if new_files != files:
                self.catalog.set_shards(new_files)
            for entry, count in zip(entries, counts, strict=True):
                self.catalog.put(entry, rows)
                rows += count
            if len(vectors):
                self.catalog.stamp()

    def compact(self) -> int:
        """Drop the vectors of deleted tiles; gives how many. Until it ends, all reads are of the old files."""
        rows = self.catalog.rows()
        kept = self.catalog.rows_not_deleted()
        if len(kept) == rows:
            return 0
        parts = [self.shards.map(file, length) for file, length in self.files().items()]
        new: list[int] = []
        for start in range(0, len(kept), COPIED):
            block = gather(parts, self.shards.shard_rows, kept[start : start + COPIED])
            new = self.shards.append(new, start, block)
        with self.catalog.transaction():
            self.catalog.renumber(kept)
            self.catalog.set_shards(new)
            self.catalog.stamp()
        self._mapped.clear()
        self.shards.clean(new, len(kept))
        return rows - len(kept)


def scene_embeddings(index: ArchiveIndex, scene: str | Path) -> SceneEmbeddings:
    """The tiles of one file of an index, for :class:`galr_mm.apis.SceneLocalizer`: nothing is read or encoded anew.

    Args:
        index: opened for reading.
        scene: path of the file, or, where there is no file at this path, its name in the archive.

    Raises:
        FileNotFoundError: when the index has no tiles of it.
        ValueError: when the file has changed since it was indexed; names it.
        OSError: when the file cannot be read to find that out.
    """
    with index.snapshot() as snapshot:
        for name in _names_in(index.archive, scene):
            rows = index.catalog.rows_of(os.fsencode(name))
            if len(rows):
                _refuse_changed(index, name)
                tiles = list(index.catalog.tiles(rows).values())
                vectors = torch.from_numpy(snapshot.vectors(rows))
                record = tiles[0].scene
                place = Place() if record is None else record.place
                return SceneEmbeddings(*tiles[0].image_size, [tile.window for tile in tiles], vectors, place)
    raise FileNotFoundError(f'{index.folder} has no tiles of {scene}')


def _names_in(archive: Path, scene: str | Path) -> list[str]:
    """Names that a scene may have in an archive: those of its path, or the path itself where no file is there.

    A link has the name that it is indexed by, and so has what a folder that is a link leads to.
    """
    if not os.path.exists(scene):
        return [os.path.normpath(scene)]
    folder, base = os.path.split(os.path.abspath(scene))
    root = os.path.realpath(archive)
    return [
        os.path.relpath(os.path.join(folder, base), os.path.abspath(archive)),
        os.path.relpath(os.path.join(os.path.realpath(folder), base), root),
        os.path.relpath(os.path.realpath(scene), root),
    ]


def _refuse_changed(index: ArchiveIndex, name: str) -> None:
    """A file that is there is what was indexed: of equal size and time, or of equal content."""
    known, path = index.catalog.source(os.fsencode(name)), index.archive / name
    if known is None or not path.is_file():
        return
    state = FileState.of(path)
    if state != known.state and (state.size != known.state.size or digest_of(path) != known.digest):
        raise ValueError(
            f'{path} has changed since it was indexed; bring the index up to date: '
            f'archive.py index {index.archive} --index {index.folder}'
        )


@contextmanager
def open_writer(
    folder: str | Path,
    model: ModelId | None = None,
    settings: Mapping[str, str] | None = None,
    shard_rows: int = SHARD_ROWS,
) -> Iterator[ArchiveWriter]:
    """Open an index for changes, or make an empty one where a model is given and none is there.

    Args:
        folder: of the index.
        model: that fills it; None changes nothing that depends on it.
        settings: written into a new index; an old one must have the same.
        shard_rows: rows of a file of a new index.

    Raises:
        BlockingIOError: when another writer has it open.
        FileNotFoundError: when there is none and no model is given.
        ValueError: when it was filled by another model, with other settings, its vectors are damaged, or the folder
            holds other things.
    """
    folder = Path(folder)
    if model is None and not (folder / NAME).is_file():
        raise missing(folder)
    with file_lock(folder / NAME):
        if model is not None and not (folder / NAME).is_file():
            ours = (f'.{NAME}.part', f'{NAME}.lock', FOLDER)
            strange = sorted(name for name in os.listdir(folder) if not name.startswith(ours))
            if strange:
                raise ValueError(f'{folder} is not an archive index and not empty: it holds {strange[0]!r}')
            meta = dict(fingerprint=model.fingerprint, dim=str(model.dim), model=model.words, archive='')
            Catalog.create(folder, {**meta, **(settings or {}), 'shard_rows': str(shard_rows)})
        writer = ArchiveWriter(folder)
        try:
            if model is not None:
                model.require(folder, writer.meta)
            for name, value in (settings or {}).items():
                if writer.meta.get(name) != value:
                    raise ValueError(
                        f'{folder} was made with {name} {writer.meta.get(name)}, got {value}; use the same, or another '
                        'index'
                    )
            yield writer
        except sqlite3.OperationalError as error:  # the disk is full, or failed
            raise OSError(f'{folder / NAME} cannot be written: {error}') from error
        finally:
            writer.close()
