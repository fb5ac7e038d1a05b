"""The most similar tiles of an index: every vector is compared, block by block, so the answer is exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from galr_mm.archive.store import Snapshot
from galr_mm.functional.arrays import as_tensor
from galr_mm.functional.checks import check_whole
from galr_mm.functional.rerank.checks import prepare_features
from galr_mm.functional.rerank.top_k import RunningTopK

BLOCK = 1 << 14  # rows compared at a time: 32 MiB of 512 values
QUERIES = 1 << 8  # queries compared at a time
WIDTH = 64  # blocks are filled up to a multiple of it, so that equal vectors get equal products wherever they stand
SPARE = 32  # candidates beyond k: scores that float32 products leave equal or exchange are told apart in float64


class Found(NamedTuple):
    """Rows and cosines of the k best tiles of each query, best first, equal ones by lower row; fewer where there are.

    Shapes:
        - rows: int64 (Q, m), m <= k
        - scores: float64 (Q, m)
    """

    rows: np.ndarray
    scores: np.ndarray


class Engine(Protocol):
    """What finds the most similar tiles; :func:`nearest` is one, and so is :class:`galr_mm.archive.MilvusEngine`."""

    def __call__(
        self, snapshot: Snapshot, queries: np.ndarray | Tensor, k: int, rows: np.ndarray | None = None
    ) -> Found:
        """The k best of all tiles that are searched, or of these rows; see :func:`nearest`."""


def nearest(snapshot: Snapshot, queries: np.ndarray | Tensor, k: int, rows: np.ndarray | None = None) -> Found:
    """Compare queries with all tiles that are searched, or with some.

    The memory beyond the mapped files is two blocks, whatever the index holds. The order does not depend on k.

    Args:
        snapshot: of the index.
        queries: (Q, D), L2-normalized.
        k: how many.
        rows: rising; of a filter. None takes all that are live.

    Raises:
        ValueError: when k is not 1 or more, queries are not finite or of another width, or a vector of the index is
            not finite; names its file.
    """
    queries, k = prepared(snapshot, queries, k, rows)
    count = snapshot.live if rows is None else len(rows)
    found = [_nearest(snapshot, part, k, count, rows) for part in queries.split(QUERIES) if k]
    if not found:
        return Found(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0)))
    return Found(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def prepared(snapshot: Snapshot, queries: np.ndarray | Tensor, k: int, rows: np.ndarray | None) -> tuple[Tensor, int]:
    """Queries in float32, and k or as many as there are.

    Raises:
        ValueError: see :func:`nearest`.
    """
    check_whole('k', k)
    dim = snapshot.parts[0].shape[1] if snapshot.parts else as_tensor(queries).shape[-1]
    queries, _ = prepare_features(queries=queries, vectors=torch.zeros(1, dim))
    return queries.float(), min(int(k), snapshot.live if rows is None else len(rows))


def best_of(snapshot: Snapshot, queries: Tensor, candidates: np.ndarray, k: int) -> Found:
    """The k best of candidates (Q, n), by their vectors in the index, in float64."""
    scores = _exact(snapshot, queries.double(), candidates)
    order = np.lexsort((candidates, -scores))[:, :k]
    return Found(np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1))


def _nearest(snapshot: Snapshot, queries: Tensor, k: int, count: int, rows: np.ndarray | None) -> Found:
    kept = min(k + SPARE, count)
    total = snapshot.rows if rows is None else len(rows)
    best = RunningTopK(len(queries), total, kept, torch.float32, queries.device)
    for start, block in _live_blocks(snapshot) if rows is None else _chosen_blocks(snapshot, rows):
        width = len(block)
        if width % WIDTH:
            block = np.concatenate([block, np.zeros((-width % WIDTH, block.shape[1]), np.float32)])
        tile = (queries @ as_tensor(block).t())[:, :width]
        _refuse_damaged(
            snapshot, tile, np.arange(start, start + width) if rows is None else rows[start : start + width]
        )
        if rows is None:
            first, last = np.searchsorted(snapshot.not_live, [start, start + width])
            tile[:, torch.from_numpy(snapshot.not_live[first:last] - start)] = -torch.inf
        best.update(slice(0, len(queries)), slice(start, start + width), tile.contiguous())
    candidates = best.index.numpy()
    return best_of(snapshot, queries, candidates if rows is None else rows[candidates], k)


def _refuse_damaged(snapshot: Snapshot, products: Tensor, rows: np.ndarray) -> None:
    """Products (Q, n) with tiles that are searched are numbers where the vectors of these rows are."""
    if products.isfinite().all():
        return
    bad = np.setdiff1d(rows[~products.isfinite().all(0).numpy()], snapshot.not_live)
    if len(bad):
        position, row = divmod(int(bad[0]), snapshot.shard_rows)
        file = getattr(snapshot.parts[position], 'filename', f'file {position} of vectors')
        raise ValueError(f'{file} is damaged: its vector {row} is not finite, which `archive.py check` counts')


def _live_blocks(snapshot: Snapshot) -> Iterator[tuple[int, np.ndarray]]:
    for position, part in enumerate(snapshot.parts):
        for start in range(0, len(part), BLOCK):
            yield position * snapshot.shard_rows + start, part[start : start + BLOCK]


def _chosen_blocks(snapshot: Snapshot, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), BLOCK):
        yield start, snapshot.vectors(rows[start : start + BLOCK])


def _exact(snapshot: Snapshot, queries: Tensor, candidates: np.ndarray) -> np.ndarray:
    """Products of queries (Q, D) and their candidates (Q, n) in float64, a sum of its own for each."""
    scores = np.empty(candidates.shape)
    for query, own, out in zip(queries, candidates, scores, strict=True):
        for start in range(0, len(own), BLOCK):
            vectors = torch.from_numpy(snapshot.vectors(own[start : start + BLOCK])).double()
            out[start : start + BLOCK] = (vectors * query).sum(1).numpy()
    return scores
