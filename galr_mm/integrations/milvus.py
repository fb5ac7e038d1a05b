"""Milvus as a place for vectors: Milvus Lite in this process (``x.db``) or a server (``http://...``), by pymilvus.

What is kept is a row number, a checksum and a vector. Nothing here knows what they mean.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from galr_mm.integrations.installation import require_module
from galr_mm.messages import clip, shorten

EXACT = dict(index_type='FLAT', params={})  # all that is exact in Milvus Lite, whose graphs lose rows after a flush
GRAPH = dict(index_type='HNSW', params=dict(M=32, efConstruction=200))
EF = 256  # least number of candidates of a search in a graph
ANSWER = 30  # seconds for one answer
SETTLED = 600  # seconds without progress until an index that is being built is given up
VALUES = 1 << 20  # values of vectors, or hits, in one message; Milvus takes 64 MiB
PAGE = 1 << 14  # the most rows that a server lists or finds at once
NO_COLLECTION = 100  # the code of pymilvus for a name that is none
_OPEN: Counter[str] = Counter()  # clients of each file in this process, which share one Milvus Lite


class EngineError(OSError):
    """An engine does not answer, is damaged, or does not hold what it should; the message names it."""


class _Heard(logging.Handler):
    """Keeps the last error that a library wrote to its log in place of raising it."""

    cause: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.cause = record.exc_info[1] if record.exc_info else None


_HEARD = _Heard()


class MilvusCollection:
    """A collection of vectors, compared by their inner products.

    Args:
        address: a path that ends in ``.db``, or ``http(s)://host:port``, with ``#name`` behind it for a collection of
            another name than ``galr_mm``. A server's token is taken from ``MILVUS_TOKEN``.
        create: make a file that is not there.

    Raises:
        ImportError: when pymilvus is not installed; names the extra.
        ValueError: for another kind of address, or a file that is not one of Milvus Lite 3.
        EngineError: when it is not there, in use by another process, damaged, or does not answer.
    """

    def __init__(self, address: str, create: bool = False) -> None:
        require_module('pymilvus', 'milvus')
        self.address = address
        self.uri, self.name = split_address(address)
        self.is_file = self.uri.endswith('.db')
        if self.is_file:
            require_module('milvus_lite', 'milvus')
            self.uri = os.path.abspath(self.uri)
            _check_file(Path(self.uri), create)
        with self._naming():
            self._client = self._connect()
        if self.is_file:
            if not _OPEN[self.uri]:
                _drop_halves(Path(self.uri))
            _OPEN[self.uri] += 1

    def _connect(self) -> Any:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import ConnectionConfigException

        # what they log as errors they raise, too, but for what keeps Milvus Lite from opening a file
        logging.getLogger('pymilvus').setLevel(logging.CRITICAL)
        lite = logging.getLogger('milvus_lite')
        lite.propagate, lite.handlers = False, [_HEARD]
        try:
            token = '' if self.is_file else os.environ.get('MILVUS_TOKEN', '')
            return MilvusClient(self.uri, token=token, timeout=ANSWER, dedicated=True)
        except ConnectionConfigException as error:
            cause = _HEARD.cause or error
            raise EngineError(
                f'{self.address} cannot be opened: {type(cause).__name__}: {clip(cause)}. Milvus Lite is for one '
                'process at a time; if it is damaged, delete it and fill it again: nothing is encoded'
            ) from error

    def close(self) -> None:
        """Let go of the server, or of the file."""
        self._client.close()
        if self.is_file:
            _OPEN[self.uri] -= 1
            if not _OPEN[self.uri]:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self.uri)

    def __enter__(self) -> MilvusCollection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let errors name the engine."""
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            hint = '. If it is damaged, delete it and fill it again: nothing is encoded' if self.is_file else ''
            raise EngineError(f'{self.address}: {clip(error.message)}{hint}') from error

    # what is there

    def properties(self) -> dict[str, str] | None:
        """What was written at its making; None where there is no such collection."""
        with self._naming():
            if not self._client.has_collection(self.name, timeout=ANSWER):
                return None
            return dict(self._client.describe_collection(self.name, timeout=ANSWER).get('properties') or {})

    def names(self) -> list[str]:
        """Other names of the collection, which :meth:`search` takes."""
        with self._naming():
            return list(self._client.list_aliases(self.name, timeout=ANSWER).get('aliases', []))

    def count(self, condition: str = '') -> int:
        """How many rows there are, or are of a kind."""
        with self._naming():
            found = self._client.query(
                self.name, filter=condition, output_fields=['count(*)'], consistency_level='Strong', timeout=ANSWER
            )
        return int(found[0]['count(*)'])

    def rows(self, condition: str, vectors: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows of a kind, :data:`PAGE` at most, in any order.

        Shapes:
            - rows, checksums: int64 (n,)
            - vectors: float32 (n, D)
        """
        fields = ['id', 'checksum', *(['vector'] if vectors else [])]
        with self._naming():
            found = self._client.query(
                self.name, filter=condition, output_fields=fields, consistency_level='Strong', limit=PAGE,
                timeout=ANSWER,
            )  # fmt: skip
        rows, checksums = (np.array([row[field] for row in found], np.int64) for field in fields[:2])
        return rows, checksums, np.array([row['vector'] for row in found], np.float32) if vectors else None

    # changes

    def create(self, dim: int, properties: Mapping[str, str]) -> None:
        """Make the collection, without an index."""
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field('id', DataType.INT64, is_primary=True)
        schema.add_field('checksum', DataType.INT64)
        schema.add_field('vector', DataType.FLOAT_VECTOR, dim=dim)
        with self._naming():
            self._client.create_collection(self.name, schema=schema, properties=dict(properties), timeout=ANSWER)

    def make_index(self) -> None:
        """Say how vectors are indexed, where that is not said."""
        with self._naming():
            if not self._client.list_indexes(self.name):
                index = self._client.prepare_index_params()
                index.add_index('vector', index_name='vector', metric_type='IP', **(EXACT if self.is_file else GRAPH))
                self._client.create_index(self.name, index, timeout=ANSWER, sync=False)

    def load(self) -> None:
        """Let what is stored be searched, where it is not."""
        from pymilvus.client.types import LoadState

        for last in (False, False, True):
            try:
                with self._naming():
                    if self._client.get_load_state(self.name, timeout=ANSWER)['state'] != LoadState.Loaded:
                        self._client.load_collection(self.name, timeout=SETTLED)
                return
            except EngineError:  # Milvus Lite fails on an index that it is writing just then
                if last:
                    raise
                time.sleep(0.3)

    def upsert(self, rows: np.ndarray, checksums: Sequence[int], vectors: np.ndarray) -> None:
        """Write rows, in place of those of the same numbers."""
        data = [
            dict(id=row, checksum=checksum, vector=vector)
            for row, checksum, vector in zip(rows.tolist(), checksums, vectors, strict=True)
        ]
        with self._naming():
            self._client.upsert(self.name, data, timeout=2 * ANSWER)

    def delete(self, rows: np.ndarray) -> None:
        """Delete rows."""
        with self._naming():
            for start in range(0, len(rows), PAGE):
                self._client.delete(self.name, ids=rows[start : start + PAGE].tolist(), timeout=2 * ANSWER)

    def settle(self) -> None:
        """Wait until all rows are in the index, and load it anew: before that a server gives few of the right ones.

        Raises:
            EngineError: when the index does not get on.
        """
        with self._naming():
            self._client.flush(self.name, timeout=SETTLED)
            least, since = None, time.monotonic()
            while pending := self._client.describe_index(self.name, 'vector', timeout=ANSWER)['pending_index_rows']:
                if least is None or pending < least:
                    least, since = pending, time.monotonic()
                elif time.monotonic() - since > SETTLED:
                    raise EngineError(f'{self.address}: {pending} rows have not been indexed for {SETTLED} s')
                time.sleep(0.2)
            if not self.is_file:
                self._client.release_collection(self.name, timeout=SETTLED)
        self.load()

    def rename(self, name: str | None) -> None:
        """Let this be the only other name of the collection; None takes all away."""
        old = self.names()
        with self._naming():
            for other in old:
                if other != name:
                    self._client.drop_alias(other, timeout=ANSWER)
            if name is not None and name not in old:
                self._client.create_alias(self.name, name, timeout=ANSWER)

    # searches

    def search(self, name: str, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows and inner products of the k best of each query (Q, D), best first.

        Args:
            name: of the collection, or another one of it.
            queries: float32.
            k: :data:`PAGE` at most.

        Raises:
            KeyError: when no collection has this name.
            EngineError: when there is no answer.
        """
        from pymilvus.exceptions import MilvusException

        found: list[tuple[np.ndarray, np.ndarray]] = []
        step = max(1, VALUES // k)
        with self._naming():
            for start in range(0, len(queries), step):
                try:
                    answer = self._client.search(
                        name, list(queries[start : start + step]), limit=k, anns_field='vector', output_fields=['id'],
                        search_params=dict(metric_type='IP', params=dict(ef=max(EF, k))), consistency_level='Bounded',
                        timeout=ANSWER,
                    )  # fmt: skip
                except MilvusException as error:
                    if error.code == NO_COLLECTION:
                        raise KeyError(name) from error
                    raise
                found += [(np.array(hits.ids, np.int64), np.array(hits.distances)) for hits in answer]
        return found


def split_address(address: str) -> tuple[str, str]:
    """Where an engine is, and the name of its collection.

    Raises:
        ValueError: for another kind of address.

    >>> split_address('http://localhost:19530#harbors'), split_address('engine.db')
    (('http://localhost:19530', 'harbors'), ('engine.db', 'galr_mm'))
    """
    uri, _, name = address.partition('#')
    fits = re.fullmatch('https?://[^@]+', uri) or (uri.endswith('.db') and '://' not in uri)
    if not fits or not re.fullmatch('[A-Za-z_][A-Za-z0-9_]{0,200}', name or 'galr_mm'):
        raise ValueError(
            f'the engine is {shorten(address)}, expected a path that ends in .db or an address such as '
            'http://localhost:19530, without a password, and maybe #NAME of a collection: letters, digits and _'
        )
    return uri, name or 'galr_mm'


def _drop_halves(path: Path) -> None:
    """Delete what Milvus Lite was writing when it was killed: it makes what is missing, and fails on a half."""
    for folder in path.glob('collections/*/'):
        if not (folder / 'schema.json').is_file():  # without it this is no collection, and stands in the way of one
            shutil.rmtree(folder)
    for file in path.glob('collections/*/partitions/*/indexes/*.flat.idx'):
        try:
            np.load(file, mmap_mode='r')
        except (ValueError, EOFError):
            file.unlink()


def _check_file(path: Path, create: bool) -> None:
    """Refuse what Milvus Lite would make, or fill with files of its own."""
    empty = path.is_dir() and not any(path.iterdir())  # so it stands for a moment when Milvus Lite makes it
    if empty or not path.exists():
        if not create:
            raise EngineError(f'no engine at {path}; `archive.py fill INDEX {path.name}` makes it')
        if not path.parent.is_dir():
            raise FileNotFoundError(f'no folder {path.parent} for an engine {path.name}')
    elif not (path / 'collections').is_dir():
        raise ValueError(f'{path} is not a database of Milvus Lite 3, which is a folder that holds `collections`')
