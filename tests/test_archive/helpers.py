"""Archives of tiny images and an encoder without a model: a vector that depends on the pixels alone."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path

import mmcv
import numpy as np

from galr_mm.archive import (
    ArchiveIndex,
    Box,
    Cut,
    Encoded,
    Entry,
    FileState,
    ModelId,
    Tile,
    open_writer,
    update_archive,
)
from galr_mm.archive.hits import Hit
from galr_mm.archive.search import nearest
from galr_mm.imagery import Window

DIM = 8
MODEL = ModelId('a' * 64, DIM, 'a hash')


def vector(seed: bytes | int, dim: int = DIM) -> np.ndarray:
    """A unit vector."""
    seed = seed if isinstance(seed, bytes) else str(seed).encode()
    number = int.from_bytes(hashlib.sha256(seed).digest()[:8], 'big')
    values = np.random.default_rng(number).standard_normal(dim)
    return (values / np.linalg.norm(values)).astype(np.float32)


class Encoder:
    """What stands for a model; keeps how many pieces it saw."""

    def __init__(self, boxes=()):
        self.seen, self.boxes = 0, boxes

    def __call__(self, pieces):
        return [self.one(piece) for piece in pieces]

    def one(self, piece):
        self.seen += 1
        try:
            image = mmcv.imread(str(piece.content)) if isinstance(piece.content, Path) else piece.content
            if image is None:
                raise OSError('cannot be decoded')
        except Exception as error:
            return error
        return Encoded(vector(image.tobytes()), self.boxes)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mmcv.imwrite(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8), str(path))
    return path


def update(index, archive, encode=None, cut=Cut(), model=MODEL, **options):  # noqa: B008, it is frozen
    options = dict(batch_size=3) | options
    with open_writer(index, model, dict(cut=str(cut)), shard_rows=5) as writer:
        return update_archive(writer, archive, encode or Encoder(), cut, **options)


def fill(index, vectors, first=0, shard_rows=5, model=MODEL, **description):
    """Entries of one tile each, named by number."""
    with open_writer(index, model, shard_rows=shard_rows) as writer:
        writer.put([entry(first + i, v) for i, v in enumerate(vectors)])


def entry(number: int, values: np.ndarray, boxes: tuple[Box, ...] = ()) -> Entry:
    tile = Tile(Window(0, 0, 8, 6), boxes)
    digest = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
    return Entry(b'%05d.png' % number, FileState(number, number), digest, (6, 8), [tile], values[None])


@contextmanager
def reading(index):
    with ArchiveIndex(index) as opened, opened.snapshot() as snapshot:
        yield opened, snapshot


def content(index) -> dict[str, bytes]:
    """Each tile that is searched, with its vector: what two indexes of the same images share."""
    with reading(index) as (opened, snapshot):
        rows = np.setdiff1d(np.arange(snapshot.rows), snapshot.not_live)
        tiles = opened.catalog.tiles(rows)
        return {tiles[row].tile_id: v.tobytes() for row, v in zip(rows.tolist(), snapshot.vectors(rows), strict=True)}


def find(index, query, k=3, where=None) -> list[Hit]:
    with reading(index) as (opened, snapshot):
        rows = None if where is None else opened.catalog.rows_where(where)
        found = nearest(snapshot, query[None], k, rows)
        tiles = opened.catalog.tiles(found.rows[0])
        pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
        return [Hit.of(tiles[row], opened.archive, score) for row, score in pairs]
