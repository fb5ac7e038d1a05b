"""Whether an index is whole: catalogue and vectors fit, vectors are finite and of unit length, searches are exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from galr_mm.archive.search import BLOCK, nearest
from galr_mm.archive.store import ArchiveIndex, Snapshot
from galr_mm.functional.checks import check_whole

TOLERANCE = 1e-3  # of a length
AGREE = 1e-5  # of scores
ROUNDED = 1e-4  # degrees between bounds and the float32 of the tree
PLACED = 'state != 2 AND west NOT NULL'


@dataclass
class CheckReport:
    """What a check found.

    Args:
        tiles: that are searched.
        queries: vectors of the index that were searched with.
        recall: fraction of the tiles of a plain float64 product that the search gave too, equal scores aside.
        problems: in words; none for a whole index.
    """

    tiles: int = 0
    queries: int = 0
    recall: float = 1.0
    problems: list[str] = field(default_factory=list)


def check_index(index: ArchiveIndex, queries: int = 50, k: int = 10, seed: int = 0) -> CheckReport:
    """Read everything once and compare some searches with a product written another way.

    Args:
        index: opened for reading.
        queries: how many vectors of the index are searched with.
        k: tiles of each search.
        seed: of the choice.

    Raises:
        ValueError, OSError: when files of vectors are missing or too short, or queries or k are not 1 or more.
    """
    check_whole('queries', queries)
    check_whole('k', k)
    report = CheckReport()
    report.problems += [f'the catalogue: {problem}' for problem in _catalog_problems(index)]
    report.problems += [f'the catalogue: {problem}' for problem in _place_problems(index)]
    report.problems += _tile_problems(index)
    with index.snapshot() as snapshot:
        live = np.setdiff1d(np.arange(snapshot.rows), snapshot.not_live, assume_unique=True)
        report.tiles = len(live)
        report.problems += _vector_problems(snapshot, live)
        if len(live) and not report.problems:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(live, min(queries, len(live)), replace=False))
            report.queries = len(chosen)
            report.recall = _recall(snapshot, live, chosen, k)
            if report.recall < 1:
                report.problems.append(f'searches give {report.recall:.4f} of the most similar tiles')
    return report


def _catalog_problems(index: ArchiveIndex) -> Iterator[str]:
    execute = index.catalog.db.execute
    for (problem,) in execute('PRAGMA integrity_check'):
        if problem != 'ok':
            yield problem
    count, rows = execute('SELECT count(*), coalesce(max(row) + 1, 0) FROM tile').fetchone()
    if count != rows:
        yield f'{count} tiles on {rows} rows'
    lost = execute(
        'SELECT count(*) FROM tile LEFT JOIN source ON source.id = tile.source WHERE state != 2 AND source.id IS NULL'
    ).fetchone()[0]
    if lost:
        yield f'{lost} tiles of no file'
    wrong = execute(
        "SELECT count(*) FROM tile JOIN source ON source.id = tile.source WHERE (state = 0 AND status != 'ok')"
        " OR (state = 1 AND status != 'gone')"
    ).fetchone()[0]
    if wrong:
        yield f'{wrong} tiles are not in the state of their file'
    bare = execute(
        "SELECT count(*) FROM source WHERE status = 'ok' AND id NOT IN (SELECT source FROM tile WHERE state = 0)"
    ).fetchone()[0]
    if bare:
        yield f'{bare} files without tiles'


def _place_problems(index: ArchiveIndex) -> Iterator[str]:
    """The tree by which places are found, against the bounds of the tiles: it holds float32, rounded outwards."""
    expected = (
        'WITH expected (id, west, east, south, north) AS ('
        f'SELECT 2 * row, west, CASE WHEN west <= east THEN east ELSE 180.0 END, south, north FROM tile WHERE {PLACED}'
        f' UNION ALL SELECT 2 * row + 1, -180.0, east, south, north FROM tile WHERE {PLACED} AND west > east) '
    )
    sides = [('west', -1), ('east', 1), ('south', -1), ('north', 1)]
    beyond = ' OR '.join(
        f'{sign} * (place.{side} - expected.{side}) NOT BETWEEN 0 AND {ROUNDED}' for side, sign in sides
    )
    execute = index.catalog.db.execute
    lost = f'SELECT count(DISTINCT id >> 1) FROM expected LEFT JOIN place USING (id) WHERE place.id IS NULL OR {beyond}'
    if count := execute(expected + lost).fetchone()[0]:
        yield f'{count} tiles are not in the tree of places where they lie'
    more = 'SELECT count(*) FROM place WHERE id NOT IN (SELECT id FROM expected)'
    if count := execute(expected + more).fetchone()[0]:
        yield f'{count} entries of the tree of places are of no tile that lies there'


def _tile_problems(index: ArchiveIndex) -> Iterator[str]:
    """What is written of tiles, read as a search reads it: many at a time, and one by one where that fails."""
    query = 'SELECT row FROM tile JOIN source ON source.id = tile.source WHERE state != 2 ORDER BY row'
    rows = [row for (row,) in index.catalog.db.execute(query)]
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        if _problem_of(index, part):
            yield from filter(None, (_problem_of(index, [row]) for row in part))


def _problem_of(index: ArchiveIndex, rows: list[int]) -> str | None:
    try:
        index.catalog.tiles(rows)
    except ValueError as error:
        return str(error)
    return None


def _vector_problems(snapshot: Snapshot, live: np.ndarray) -> list[str]:
    bad = 0
    for start in range(0, len(live), BLOCK):
        lengths = np.linalg.norm(snapshot.vectors(live[start : start + BLOCK]).astype(np.float64), axis=1)
        bad += int((~(np.abs(lengths - 1) < TOLERANCE)).sum())
    return [f'{bad} vectors are not finite or not of unit length'] if bad else []


def _recall(snapshot: Snapshot, live: np.ndarray, chosen: np.ndarray, k: int) -> float:
    queries = snapshot.vectors(chosen)
    found = nearest(snapshot, queries, k)
    best = np.full((len(queries), found.rows.shape[1]), -np.inf)
    for start in range(0, len(live), BLOCK):
        scores = queries.astype(np.float64) @ snapshot.vectors(live[start : start + BLOCK]).astype(np.float64).T
        both = np.concatenate([best, scores], axis=1)
        best = -np.sort(-both, axis=1)[:, : best.shape[1]]
    # a tile of the right score is a right one: which of equals is given is a rule, not a question of recall
    return float((found.scores >= best[:, -1:] - AGREE).mean()) if best.size else 1.0
