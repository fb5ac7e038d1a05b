"""An engine beside an index: filled from its vectors, searched in their place, checked against them.

Catalogue and shards stay the truth. The engine holds for each tile that is searched its row, a checksum of its vector
and the vector, and bears the name of the state that it holds (``Snapshot.commit``), which a search asks for: an engine
that holds another one gives nothing. What it finds is scored anew from the vectors of the index.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from galr_mm.archive.search import QUERIES, SPARE, Found, best_of, nearest, prepared
from galr_mm.archive.store import ArchiveIndex, ArchiveWriter, Snapshot
from galr_mm.functional.checks import check_whole
from galr_mm.integrations.milvus import EF, PAGE, VALUES, EngineError, MilvusCollection
from galr_mm.messages import shorten

FETCHED = (EF, 1 << 10, 1 << 12, PAGE)  # so many hits are asked for, more where ties or a filter leave too few
CHOSEN = 1 << 16  # rows of a filter that are compared one by one, which takes less time than asking an engine
AGREE = 1e-5  # of scores: what float32 products of an engine and ours may differ by
ENOUGH = 0.99  # recall of a graph
logger = logging.getLogger(__name__)


class MilvusEngine:
    """Searches an index through Milvus; the hits are those of :func:`nearest` as far as the engine's index is exact.

    Equal scores come by lower row, and the five best are the head of the fifteen best. Of a filter that passes few
    tiles, these are compared one by one; else more hits are asked for, until enough of them pass.

    Args:
        index: that the engine was filled from.
        address: a path that ends in ``.db`` (Milvus Lite), or ``http(s)://host:port`` of a server, maybe with
            ``#collection``.
        or_exact: where the engine fails, warn and compare all vectors, in place of an error.

    Raises:
        ValueError: for another kind of address.

    A search raises :class:`~galr_mm.integrations.milvus.EngineError` when the engine does not answer, or holds another
    state of the index or less than it, and ValueError when it holds another index.
    """

    def __init__(self, index: ArchiveIndex, address: str, or_exact: bool = False) -> None:
        self.index = index
        self.address = address
        self.or_exact = or_exact
        self._collection: MilvusCollection | None = None
        self._trusted: str | None = None  # the state that the collection is known to hold

    def open(self) -> None:
        """Find out before long work whether the engine serves.

        Raises:
            EngineError, ValueError: when it does not, unless ``or_exact`` allows the former.
        """
        try:
            with self.index.snapshot() as snapshot:
                self.trusted(snapshot)
        except EngineError:
            self.close()
            if not self.or_exact:
                raise

    def close(self) -> None:
        """Let go of the engine; the next search opens it again."""
        if self._collection is not None:
            self._collection.close()
        self._collection, self._trusted = None, None

    def __call__(
        self, snapshot: Snapshot, queries: np.ndarray | Tensor, k: int, rows: np.ndarray | None = None
    ) -> Found:
        """The k best of all tiles that are searched, or of these rows; see :func:`nearest`."""
        prepared_queries, k = prepared(snapshot, queries, k, rows)
        fetched = _first_fetch(snapshot, k, rows)
        if not k or fetched is None:
            return nearest(snapshot, queries, max(k, 1), rows)
        try:
            parts = [self._search(snapshot, part, k, rows, fetched) for part in prepared_queries.split(QUERIES)]
        except EngineError as error:
            self.close()
            if not self.or_exact:
                raise
            logger.warning(f'{error}; all vectors are compared instead')
            return nearest(snapshot, queries, k, rows)
        return Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _search(self, snapshot: Snapshot, queries: Tensor, k: int, rows: np.ndarray | None, fetched: int) -> Found:
        found = Found(np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k)))
        collection = self.trusted(snapshot)
        waiting: np.ndarray = np.arange(len(queries))
        for fetch in (level for level in FETCHED if level >= fetched):
            try:
                hits = collection.search(
                    name_of(collection, snapshot), queries[waiting].numpy(), min(fetch, snapshot.live)
                )
            except KeyError:  # it is being filled, or was filled from another state
                self._trusted = None
                self.trusted(snapshot)
                raise EngineError(f'{self.address} changed during the search; search again') from None
            still = []
            for place, (own, scores) in zip(waiting.tolist(), hits, strict=True):
                best = _settled(snapshot, queries[place], own, scores, k, rows)
                if best is None:
                    still.append(place)
                else:
                    found.rows[place], found.scores[place] = best.rows[0], best.scores[0]
            waiting = np.array(still, np.int64)
            if not len(waiting):
                return found
        found.rows[waiting], found.scores[waiting] = nearest(snapshot, queries[waiting], k, rows)
        return found

    def trusted(self, snapshot: Snapshot) -> MilvusCollection:
        """The collection, once it is known to hold this state.

        Raises:
            EngineError, ValueError: when it does not.
        """
        if self._collection is None:
            self._collection = MilvusCollection(self.address)
        collection = self._collection
        if self._trusted != snapshot.commit:
            require_same(collection, self.index)
            if name_of(collection, snapshot) not in collection.names():
                raise EngineError(
                    f'{self.address} does not hold the present state of {self.index.folder}: the index has changed '
                    f'since, or filling did not end; `archive.py fill {self.index.folder} {self.address}`'
                )
            collection.load()
            count = collection.count()
            if count != snapshot.live:
                raise EngineError(
                    f'{self.address} holds {count} vectors, {self.index.folder} {snapshot.live}; '
                    f'`archive.py check {self.index.folder} --engine {self.address} --repair`'
                )
            self._trusted = snapshot.commit
        return collection


def name_of(collection: MilvusCollection, snapshot: Snapshot) -> str:
    """The other name of a collection that holds this state of an index."""
    return f'{collection.name}_{snapshot.commit}'


def _first_fetch(snapshot: Snapshot, k: int, rows: np.ndarray | None) -> int | None:
    """How many hits to ask for at first; None where the vectors are compared here."""
    if rows is not None and len(rows) <= CHOSEN:
        return None
    passing = 1.0 if rows is None else len(rows) / snapshot.live
    return next((fetch for fetch in FETCHED if fetch >= (k + SPARE) / passing), None)


def _settled(
    snapshot: Snapshot, query: Tensor, hits: np.ndarray, scores: np.ndarray, k: int, rows: np.ndarray | None
) -> Found | None:
    """The k best; None where hits that were not asked for may be among them."""
    if rows is not None:
        passing = hits[np.isin(hits, rows)]
    else:
        passing = hits[(hits >= 0) & (hits < snapshot.rows) & ~np.isin(hits, snapshot.not_live)]
    if len(passing) < k:
        return None
    rows, products = best_of(snapshot, query[None], passing[None], len(passing))
    among = len(hits) == snapshot.live or products[0, k - 1] > scores[-1] + AGREE
    # of a damaged vector the search of all tells the file
    return Found(rows[:, :k], products[:, :k]) if among and np.isfinite(products).all() else None


# identity


def properties_of(index: ArchiveIndex) -> dict[str, str]:
    """What a collection says of the index that it was filled from."""
    return {f'galr_mm.{key}': index.meta.get(key, '') for key in ('id', 'fingerprint', 'dim', 'model')}


def require_same(collection: MilvusCollection, index: ArchiveIndex) -> None:
    """Refuse what was filled from another index.

    Raises:
        EngineError: when there is no collection.
        ValueError: when it is of another index, or not one of ours; names both.
    """
    theirs, ours = collection.properties(), properties_of(index)
    if theirs is None:
        raise EngineError(
            f'{collection.address} has no collection {collection.name}; '
            f'`archive.py fill {index.folder} {collection.address}`'
        )
    if {key: theirs.get(key) for key in ours} != ours:
        raise ValueError(
            f'collection {collection.name} of {collection.address} was filled from {_words(theirs)}; {index.folder} is '
            f'{_words(ours)}. Another collection is named behind the address: {collection.address.partition("#")[0]}'
            '#NAME'
        )


def _words(properties: dict[str, str]) -> str:
    if 'galr_mm.id' not in properties:
        return 'something else than an archive index'
    index, fingerprint, model = (properties.get(f'galr_mm.{key}', '') for key in ('id', 'fingerprint', 'model'))
    return f'index {shorten(index)} of {shorten(model)}, fingerprint {fingerprint[:12]}'


# filling and checking


class Difference(NamedTuple):
    """Rows in which an engine and an index differ: not there, there with another vector, and there without a tile."""

    missing: np.ndarray
    wrong: np.ndarray
    superfluous: np.ndarray
    beyond: int  # superfluous ones behind the last row of the index


@dataclass
class EngineReport:
    """What was done to an engine, or found in it.

    Args:
        tiles: of the index that are searched.
        missing, wrong, superfluous: rows that an engine did not have, had with another vector, or had for no tile.
        queries: vectors of the index that were searched with.
        recall: fraction of the tiles of a search of all vectors that the engine gave too, equal scores aside.
        seconds: that filling took.
        problems: in words; none for a whole engine.
    """

    tiles: int = 0
    missing: int = 0
    wrong: int = 0
    superfluous: int = 0
    queries: int = 0
    recall: float = 1.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kept = self.tiles - self.missing - self.wrong
        return (
            f'{kept} vectors kept, {self.missing} added, {self.wrong} replaced, {self.superfluous} deleted,'
            f' {self.seconds:.1f} s'
        )


def fill_engine(
    writer: ArchiveWriter, address: str, thorough: bool = False, show_progress: bool = False
) -> EngineReport:
    """Bring an engine to the state of an index: nothing is encoded, and only what differs is sent.

    Stopped anywhere, it goes on the next time; until it ends, searches refuse the engine.

    Args:
        writer: of the index, which nobody else changes meanwhile.
        address: see :class:`MilvusEngine`; what is not there is made.
        thorough: compare vectors, not only their checksums.
        show_progress: draw a bar.

    Raises:
        ValueError: when the engine holds another index.
        EngineError: when it does not answer, or does not hold afterwards what it should.
    """
    begin = time.monotonic()
    with MilvusCollection(address, create=True) as collection, writer.snapshot() as snapshot:
        if collection.properties() is None:
            collection.create(writer.dim, properties_of(writer))
        require_same(collection, writer)
        collection.make_index()
        collection.load()
        found = _difference(snapshot, collection, thorough)
        report = _report(snapshot, found)
        changes = report.missing + report.wrong + report.superfluous
        if changes:
            collection.rename(None)
            collection.delete(found.superfluous)
            while found.beyond and len(rows := collection.rows(_beyond(snapshot))[0]):
                collection.delete(rows)
            _send(collection, snapshot, np.union1d(found.missing, found.wrong), show_progress)
        if changes or not collection.names():
            collection.settle()
        count = collection.count()
        if count != snapshot.live:  # a kill may leave a row of Milvus Lite twice, which no comparison shows
            collection.rename(None)
            everything = np.arange(snapshot.rows)
            collection.delete(everything)
            _send(collection, snapshot, np.setdiff1d(everything, snapshot.not_live), show_progress)
            collection.settle()
            count = collection.count()
        if count != snapshot.live:
            raise EngineError(
                f'{address} holds {count} vectors after it was filled with {snapshot.live}; fill it again'
            )
        collection.rename(name_of(collection, snapshot))
    report.seconds = time.monotonic() - begin
    return report


def _send(collection: MilvusCollection, snapshot: Snapshot, rows: np.ndarray, show_progress: bool) -> None:
    """Put rows of an index into a collection, in place of what it has of them."""
    step = max(1, VALUES // snapshot.parts[0].shape[1]) if len(rows) else 1
    for start in tqdm(range(0, len(rows), step), desc='filling', disable=not show_progress):
        part = rows[start : start + step]
        vectors = snapshot.vectors(part)
        collection.upsert(part, checksums(vectors), vectors)


def check_engine(index: ArchiveIndex, address: str, queries: int = 50, k: int = 10, seed: int = 0) -> EngineReport:
    """Compare all vectors of an engine with those of its index, and some searches with those of all vectors.

    Args:
        index: opened for reading.
        address: see :class:`MilvusEngine`.
        queries: how many vectors of the index are searched with.
        k: tiles of each search.
        seed: of the choice.

    Raises:
        ValueError: when the engine holds another index, or queries or k are not 1 or more.
        EngineError: when it is not there or does not answer.
    """
    check_whole('queries', queries)
    check_whole('k', k)
    with MilvusCollection(address) as collection, index.snapshot() as snapshot:
        require_same(collection, index)
        collection.load()
        report = _report(snapshot, _difference(snapshot, collection, thorough=True))
        for name in ('missing', 'wrong', 'superfluous'):
            if getattr(report, name):
                report.problems.append(f'{getattr(report, name)} vectors are {name}')
        if name_of(collection, snapshot) not in collection.names():
            report.problems.append(
                'it does not bear the name of the present state of the index, or filling did not end'
            )
        live = np.setdiff1d(np.arange(snapshot.rows), snapshot.not_live, assume_unique=True)
        chosen = np.sort(np.random.default_rng(seed).choice(live, min(queries, len(live)), replace=False))
        report.queries = len(chosen)
        if len(chosen):
            report.recall = _recall(snapshot, collection, snapshot.vectors(chosen), k)
        if report.recall < (1 if collection.is_file else ENOUGH):
            report.problems.append(f'searches give {report.recall:.4f} of the most similar tiles')
    return report


def checksums(vectors: np.ndarray) -> list[int]:
    """A number of 64 bits for each of the vectors (n, D)."""
    digests = (hashlib.blake2b(vector.tobytes(), digest_size=8).digest() for vector in vectors)
    return [int.from_bytes(digest, 'little', signed=True) for digest in digests]


def _difference(snapshot: Snapshot, collection: MilvusCollection, thorough: bool) -> Difference:
    parts = list(_differences(snapshot, collection, thorough))
    joined = [np.concatenate([np.zeros(0, np.int64), *arrays]) for arrays in zip(*parts, strict=True)]
    missing, wrong, superfluous = joined or [np.zeros(0, np.int64)] * 3
    return Difference(missing, wrong, superfluous, collection.count(_beyond(snapshot)))


def _differences(
    snapshot: Snapshot, collection: MilvusCollection, thorough: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Missing, wrong and superfluous rows, so many rows at a time."""
    dim = snapshot.parts[0].shape[1] if snapshot.parts else 1
    step = min(PAGE, max(1, VALUES // dim)) if thorough else PAGE
    for start in range(0, snapshot.rows, step):
        stop = min(start + step, snapshot.rows)
        first, last = np.searchsorted(snapshot.not_live, [start, stop])
        wanted = np.setdiff1d(np.arange(start, stop), snapshot.not_live[first:last], assume_unique=True)
        rows, sums, vectors = collection.rows(f'id >= {start} and id < {stop}', thorough)
        order = np.argsort(rows)
        rows, sums = rows[order], sums[order]
        both, theirs, ours = np.intersect1d(rows, wanted, assume_unique=True, return_indices=True)
        expected = snapshot.vectors(wanted[ours])
        equal = sums[theirs] == np.array(checksums(expected), np.int64)
        if vectors is not None and len(both):
            equal &= (vectors[order][theirs] == expected).all(1)
        yield np.setdiff1d(wanted, rows), both[~equal], np.setdiff1d(rows, wanted)


def _beyond(snapshot: Snapshot) -> str:
    return f'id < 0 or id >= {snapshot.rows}'


def _report(snapshot: Snapshot, found: Difference) -> EngineReport:
    superfluous = len(found.superfluous) + found.beyond
    return EngineReport(snapshot.live, len(found.missing), len(found.wrong), superfluous)


def _recall(snapshot: Snapshot, collection: MilvusCollection, queries: np.ndarray, k: int) -> float:
    best = nearest(snapshot, queries, k)
    right = 0
    for query, scores, (hits, _) in zip(
        queries, best.scores, collection.search(collection.name, queries, min(EF, snapshot.live)), strict=True
    ):
        own = hits[(hits >= 0) & (hits < snapshot.rows)][: len(scores)]
        products = snapshot.vectors(own).astype(np.float64) @ query.astype(np.float64)
        # a tile of the right score is a right one: which of equals is given is a rule, not a question of recall
        right += int((products >= scores[-1] - AGREE).sum())
    return right / best.scores.size
