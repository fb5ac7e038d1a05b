from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to, which becomes ``path`` at the end and is removed where the writing fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def file_lock(path: str | Path) -> Iterator[None]:
    """Keep other processes from writing ``path`` for the length of a run; the lock goes with the process.

    The system's advisory lock on ``<path>.lock``; where the system has none (Windows), nothing is locked.

    Raises:
        BlockingIOError: when another run holds the lock.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # not a Unix
        yield
        return
    name = Path(f'{path}.lock')
    name.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with name.open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f'another run is writing {path}; wait for it or stop it') from error
            if not _is_open_file(name, file.fileno()):
                continue  # the holder before us removed it after we opened it: others lock a new file of this name
            try:
                yield
            finally:
                name.unlink(missing_ok=True)
            return


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old or the new one, never a part."""
    with atomic_write(path) as part:
        part.write_text(text, encoding='utf-8')


def write_npz(path: str | Path, **arrays: npt.ArrayLike) -> None:
    """Write a compressed .npz atomically."""
    save: Callable[..., None] = np.savez_compressed  # typed with an option that older versions do not have
    with atomic_write(path) as part, part.open('wb') as file:
        save(file, **arrays)
