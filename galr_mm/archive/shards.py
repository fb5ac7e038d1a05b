"""Vectors on disk: float32 rows one after another in files of a fixed number of rows, which are only ever appended to.

The catalogue says how many rows count and which files hold them. Bytes beyond that, of a writer that was stopped, are
overwritten by the next batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

FOLDER = 'vectors'
SHARD_ROWS = 1 << 16  # 128 MiB of 512 values
DTYPE = np.dtype('<f4')


class Shards:
    """The files of one index.

    Args:
        folder: of the index.
        dim: values of a vector.
        shard_rows: rows of a full file.
    """

    def __init__(self, folder: str | Path, dim: int, shard_rows: int = SHARD_ROWS) -> None:
        self.folder = Path(folder, FOLDER)
        self.dim = dim
        self.shard_rows = shard_rows

    def path(self, file: int) -> Path:
        """Name of a file by its number."""
        return self.folder / f'{file:05d}.f32'

    def map(self, file: int, rows: int) -> np.ndarray:
        """The first rows of a file, float32 (rows, D), read when they are looked at.

        Raises:
            FileNotFoundError: when a compaction has replaced the file.
            ValueError: when it holds fewer rows than that.
        """
        self._spare(file, rows)
        return np.memmap(self.path(file), DTYPE, 'r', shape=(rows, self.dim))

    def _spare(self, file: int, rows: int) -> int:
        """Bytes of a file behind so many rows.

        Raises:
            FileNotFoundError, ValueError: as :meth:`map`.
        """
        path = self.path(file)
        size = os.path.getsize(path)
        spare = size - rows * self.dim * DTYPE.itemsize
        if spare < 0:
            raise ValueError(f'{path} holds {size} bytes, fewer than {rows} vectors of {self.dim} float32 values')
        return spare

    def lengths(self, rows: int) -> Iterator[int]:
        """How many of so many rows each file holds."""
        return (min(self.shard_rows, rows - start) for start in range(0, rows, self.shard_rows))

    def append(self, files: Sequence[int], rows: int, vectors: np.ndarray) -> list[int]:
        """Write vectors (n, D) behind the rows that count, on to the disk; gives the files that there are then.

        Raises:
            OSError: when the disk is full; what counted before is untouched.
        """
        self.folder.mkdir(exist_ok=True)
        files, start = list(files), 0
        while start < len(vectors):
            position, offset = divmod(rows + start, self.shard_rows)
            if position == len(files):
                files.append(self._next_file())
            part = np.ascontiguousarray(vectors[start : start + self.shard_rows - offset], DTYPE)
            new = offset == 0
            with self.path(files[position]).open('wb' if new else 'r+b') as file:
                file.seek(offset * self.dim * DTYPE.itemsize)
                file.write(part.data)
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(self.folder)
            start += len(part)
        return files

    def _next_file(self) -> int:
        return 1 + max((int(path.stem) for path in self.folder.glob('*.f32')), default=-1)

    def clean(self, files: Sequence[int], rows: int) -> None:
        """Cut off what a writer left that was stopped; for the next writer, before it begins.

        Raises:
            FileNotFoundError, ValueError: when a file is not there or too short; it would get a hole of zeros, and
                nothing is changed then.
        """
        spare = [self._spare(file, length) for file, length in zip(files, self.lengths(rows), strict=True)]
        kept = {self.path(file) for file in files}
        for path in self.folder.glob('*.f32'):
            if path not in kept:
                path.unlink()
        for path, bytes_left in zip(map(self.path, files), spare, strict=True):
            if bytes_left:
                os.truncate(path, path.stat().st_size - bytes_left)


def gather(parts: Sequence[np.ndarray], shard_rows: int, rows: np.ndarray) -> np.ndarray:
    """Vectors of rows in any order, float32 (n, D), from mapped files."""
    out = np.empty((len(rows), parts[0].shape[1] if parts else 0), np.float32)
    positions = rows // shard_rows
    for position in np.unique(positions):
        chosen = positions == position
        out[chosen] = parts[position][rows[chosen] - position * shard_rows]
    return out


def _sync_folder(folder: Path) -> None:
    """Let a new name survive a power cut."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
