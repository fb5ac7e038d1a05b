from __future__ import annotations

import csv
import errno
import glob
import gzip
import io
import json
import os
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from galr_mm.messages import clip, shorten

GZIP = b'\x1f\x8b'
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what network file systems without locks answer
# what numpy raises for a damaged .npz, by where the damage is
UNREADABLE_NPZ = (OSError, ValueError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_HELD: set[TextIO] = set()  # open lock files of this process


def _let_go() -> None:
    for file in _HELD:
        file.close()
    _HELD.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_let_go)


def read_json(path: str | Path, kind: str = 'json') -> Any:
    """What a json file holds, whoever wrote it.

    UTF-8 with or without a byte-order mark, UTF-16 and UTF-32, plain or gzipped whatever the name says. ``NaN`` and
    ``Infinity`` are read, as Python writes them: who wants numbers checks them.

    Args:
        path: the file.
        kind: what it should be, for the message.

    Raises:
        OSError: when the file cannot be opened; names it.
        ValueError: when it is not json; names the file and the place in it, in a few words.
    """
    content = Path(path).read_bytes()
    try:
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        return json.loads(content.decode(json.detect_encoding(content)))
    except UnicodeDecodeError as error:  # holds the whole file, and so does its repr
        at = len(content) - len(error.object) + error.start
        problem = f'byte {at} is 0x{content[at]:02x}, which is not {error.encoding.upper()}; save the file as UTF-8'
    except json.JSONDecodeError as error:
        problem = f'{error.msg} at line {error.lineno}, column {error.colno}'
    except (EOFError, OSError, zlib.error) as error:
        problem = f'a broken gzip file ({clip(error)})'
    except RecursionError:
        problem = 'it is nested too deeply'
    except ValueError as error:  # an integer of thousands of digits
        problem = clip(error)
    instead = instead_of(path)
    raise ValueError(f'{path} is not {kind}: {f"it is {instead}" if instead else problem}')


def instead_of(source: str | Path | bytes) -> str:
    """What a file, or its content, is in place of what it was meant to be, where its bytes tell; else ''."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, 'rb') as file:
        start = file.read(256).removeprefix(b'\xef\xbb\xbf').lstrip().lower()
        cut_off = start.startswith(b'pk\x03\x04') and not zipfile.is_zipfile(file)
    if not start:
        return 'empty'
    if start.startswith(b'version https://git-lfs'):
        return 'a pointer of git-lfs, not the file itself: git lfs pull'
    if start.startswith(b'<error') or (start.startswith(b'<?xml') and b'<error' in start):
        return 'the error of a server (xml), not the file itself: download it again'
    if start.startswith((b'<!doc', b'<html', b'<?xml', b'<head')):
        return 'a web page (html), not the file itself: download it again'
    if cut_off:
        return 'a zip archive that was cut off: download it again'
    return ''


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write to, which becomes ``path`` at the end and is removed where the writing fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beginning = f'.{path.name}.{platform.node()}-'
    for left in path.parent.glob(f'{glob.escape(beginning)}*.part'):  # by a process that was killed
        if not _is_running(left.stem.removeprefix(beginning)):
            left.unlink(missing_ok=True)
    part = path.with_name(f'{beginning}{os.getpid()}.part')
    try:
        with naming(path):
            yield part
            part.replace(path)
    finally:
        if part.exists():  # a read-only disk refuses to remove even what is not there
            part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let errors of writing name the file: where the disk is full, the system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename).endswith('.part')):
            error.filename = str(path)
        raise


def _is_running(process: str) -> bool:
    if os.name != 'posix':  # elsewhere there is no signal that only asks
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # of another user
        return True
    return True


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


def read_rows(
    lines: Iterable[str], path: str | Path, separator: str = ',', skip_space: bool = False
) -> Iterator[tuple[int, list[str]]]:
    r"""Cells of each line of a table, with the number of the line; a row is a line, so no quote swallows the next ones.

    Where tabs or bars separate, a line whose double quotes do not fit those of CSV has them as part of its text.

    Args:
        lines: of the table, without their ends.
        path: the file, for errors.
        separator: of the cells.
        skip_space: leave out spaces behind a separator.

    Raises:
        ValueError: when a line is not one of a table; names it.

    >>> list(read_rows(['a,"b, c"'], 'x.csv')), list(read_rows(['a\t"b" c'], 'x.tsv', '\t'))
    ([(1, ['a', 'b, c'])], [(1, ['a', '"b" c'])])
    """

    def cells(line: str, quoted: bool) -> list[str]:
        reader = csv.reader(
            [line],
            delimiter=separator,
            skipinitialspace=skip_space,
            strict=True,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        return next(reader)

    for number, line in enumerate(lines, start=1):
        try:
            try:
                row = cells(line, quoted=True)
            except csv.Error:
                if separator not in '\t|':
                    raise
                row = cells(line, quoted=False)
        except csv.Error as error:
            raise ValueError(
                f'{path} line {number} is not a row of a table: {error}; a cell that begins with a double quote ends '
                'with one on the same line, and those within it are doubled'
            ) from error
        yield number, row


def check_columns(columns: Sequence[str], path: str | Path) -> None:
    """Refuse a table that has two columns of one name, of which one would be lost.

    Raises:
        ValueError: when it has; names them.
    """
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise ValueError(f'{path} has more than one column {shorten(twice)}, expected one of each name')


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old or the new one, never a part."""
    with atomic_write(path) as part:
        part.write_text(text, encoding='utf-8')


def write_npz(path: str | Path, **arrays: npt.ArrayLike) -> None:
    """Write a compressed .npz atomically."""
    save: Callable[..., None] = np.savez_compressed  # typed with an option that older versions do not have
    with atomic_write(path) as part, part.open('wb') as file:
        save(file, **arrays)
