"""The connection to a catalogue: what is committed is on the disk, and readers are free."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a catalogue: 'ro' to read, 'rw' to write, 'rwc' to make it.

    Raises:
        sqlite3.DatabaseError: when it is none.
        OSError: when its last changes are in a log that cannot be read where nothing can be written.
    """
    name = quote(os.fsencode(os.path.abspath(path)))
    db = sqlite3.connect(f'file:{name}?mode={mode}', uri=True, isolation_level=None, timeout=30)
    if mode == 'ro':
        try:
            db.execute('PRAGMA schema_version')
        except sqlite3.OperationalError:  # a disk that cannot be written to: nobody writes, so no log is needed
            db.close()
            log = Path(f'{path}-wal')
            if log.is_file() and log.stat().st_size:
                raise OSError(
                    f'{path} cannot be read: its last changes are in {log.name}, which SQLite reads where it can write '
                    'beside it; copy the index to a disk that can be written to'
                ) from None
            return sqlite3.connect(f'file:{name}?mode=ro&immutable=1', uri=True, isolation_level=None)
        return db
    db.execute('PRAGMA journal_mode = WAL')
    db.execute('PRAGMA synchronous = FULL')
    return db
