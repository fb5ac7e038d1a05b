from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what network file systems without locks answer
_HELD: set[TextIO] = set()  # open lock files of this process


def _let_go() -> None:
    for file in _HELD:
        file.close()
    _HELD.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_let_go)


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

    The system's advisory lock on ``<path>.lock``; where the system or the file system has none, nothing is locked.
    Processes that are forked meanwhile do not hold it: loaders may outlive a killed training by seconds.

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
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if not _is_open_file(name, file.fileno()):
                continue  # the holder before us removed it after we opened it: others lock a new file of this name
            _HELD.add(file)
            try:
                yield
            finally:
                _HELD.discard(file)
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


def missing_files(names: list[str], folder: str) -> list[str]:
    """Names that are not in ``folder``; one listing a sub-folder, not one look-up an image.

    Raises:
        FileNotFoundError: when the folder is not there.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'no image folder at {folder}; docs/datasets.md says how a data set is laid out')
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, base = os.path.split(name)
        if parent not in listings:
            path = os.path.join(folder, parent)
            listings[parent] = set(os.listdir(path)) if os.path.isdir(path) else set()
        if base not in listings[parent]:
            missing.append(name)
    return missing
