"""Archive search: ``python benchmarks/bench_archive.py [--tiles 100000 1000000] [--files 100000] [--images 400]``.

Four measurements, each against something bare in the same run, taking turns:

- searches of random unit vectors against a float32 product and ``torch.topk`` on the same vectors in memory; the growth
  of the process's own memory (without the mapped files) is that of the first searches;
- the candidates of one query re-ranked by a bank of others, against their product with the bank;
- an update of an archive in which nothing has changed;
- an indexing run against ``encode_images`` of the same files in the same batches, with a model of random weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

from galr_mm.apis import ArchiveIndexer, encode_images, init_model
from galr_mm.archive import (
    ArchiveIndex,
    Cut,
    Encoded,
    Entry,
    FileState,
    ModelId,
    Piece,
    Tile,
    open_writer,
    update_archive,
)
from galr_mm.archive.bank import CandidateReranker
from galr_mm.archive.search import nearest
from galr_mm.imagery import Window
from galr_mm.text import Vocabulary

CONFIG = Path(__file__).resolve().parents[1] / 'configs/dual_encoder_ucm_128px.py'
BATCH = 1 << 13


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def own_memory(process: int | str = 'self') -> float:
    """Memory that is a process's own, not that of mapped files, MiB; Linux only."""
    lines = Path(f'/proc/{process}/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith('RssAnon'))


@contextmanager
def growth() -> Iterator[list[float]]:
    """By how much this process's own memory grows, at its highest, MiB."""
    found, done, before = [0.0], threading.Event(), own_memory()

    def watch() -> None:
        while not done.wait(0.001):
            found[0] = max(found[0], own_memory() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def unit_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Random directions, float32."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, dim), np.float32)
    for start in range(0, count, BATCH):
        part = rng.standard_normal((min(BATCH, count - start), dim), np.float32)
        out[start : start + BATCH] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


def bench_search(folder: Path, tiles: int, dim: int, k: int, rounds: int) -> None:
    """Searches against the bare product."""
    vectors, index = unit_vectors(tiles, dim, 0), folder / f'index_{tiles}'
    whole = Tile(Window(0, 0, 256, 256))
    with open_writer(index, ModelId('0' * 64, dim, 'random')) as writer:
        for start in range(0, tiles, BATCH):
            rows = range(start, min(start + BATCH, tiles))
            writer.put(
                [
                    Entry(
                        b'%09d.png' % n, FileState(n, n), n.to_bytes(16, 'big'), (256, 256), [whole], vectors[n : n + 1]
                    )
                    for n in rows
                ]
            )
    queries, ours, bare = unit_vectors(rounds, dim, 1), [], []
    resident = torch.from_numpy(vectors)
    with ArchiveIndex(index) as opened:

        def search(query: np.ndarray) -> np.ndarray:
            with opened.snapshot() as snapshot:
                return nearest(snapshot, query[None], k).rows[0]

        with growth() as grown:
            for query in queries[:3]:
                search(query)
        for query in queries:
            wanted = torch.topk(resident @ torch.from_numpy(query), k).indices.numpy()
            assert set(search(query).tolist()) == set(wanted.tolist())
            ours.append(seconds(lambda q=query: search(q)))  # type: ignore[misc]  # bound at once
            bare.append(seconds(lambda q=query: torch.topk(resident @ torch.from_numpy(q), k)))  # type: ignore[misc]
    p95 = float(np.percentile(ours, 95))
    print(
        f'{tiles} tiles of {dim}: search {1e3 * statistics.median(ours):.1f} ms (p95 {1e3 * p95:.1f}), bare product and'
        f' topk {1e3 * statistics.median(bare):.1f} ms, {statistics.median(ours) / statistics.median(bare):.2f} times;'
        f' memory beyond the mapped files {grown[0]:.0f} MiB'
    )


def bench_rerank(dim: int, bank_size: int, rounds: int) -> None:
    """The candidates of one query re-ranked by a bank; beside it the product that every way needs."""
    bank, queries = unit_vectors(bank_size, dim, 2), unit_vectors(rounds, dim, 3)
    for method in ('mr', 'qbnorm'):
        reranker = CandidateReranker(method)
        ours: list[float] = []
        bare: list[float] = []
        for query in queries:
            candidates = unit_vectors(reranker.k, dim, len(ours))
            ours.append(seconds(lambda q=query, c=candidates: reranker(bank, q, c)))  # type: ignore[misc]  # noqa: B023
            bare.append(seconds(lambda c=candidates: bank @ c.T))  # type: ignore[misc]
        p95 = 1e3 * float(np.percentile(ours, 95))
        print(
            f'{method}, a bank of {bank_size}, {reranker.k} candidates: {1e3 * statistics.median(ours):.1f} ms'
            f' (p95 {p95:.1f}), their product with the bank {1e3 * statistics.median(bare):.1f} ms'
        )


def bench_unchanged(folder: Path, files: int) -> None:
    """An update that finds nothing to do."""
    archive = folder / 'archive'
    done, png = cv2.imencode('.png', np.zeros((1, 1, 3), np.uint8))
    assert done
    for number in range(files):
        path = archive / f'{number // 1000:04d}/{number:07d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.tobytes() + number.to_bytes(8, 'big'))
    one = unit_vectors(1, 512, 0)[0]

    def encode(pieces: Sequence[Piece]) -> list[Encoded | Exception]:
        return [Encoded(one) for _ in pieces]

    def update() -> str:
        with open_writer(folder / 'index', ModelId('0' * 64, 512, 'one')) as writer:
            return str(update_archive(writer, archive, encode, Cut(), batch_size=256))

    first, again = seconds(update), seconds(update)
    print(f'{files} files: {again:.2f} s where nothing changed ({first:.1f} s to fill, without a model); {update()}')


def bench_indexing(folder: Path, images: int, batch_size: int, rounds: int) -> None:
    """Indexing against bare encoding."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir()
    for number in range(images):
        small = rng.integers(0, 255, (32, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f'images/{number:05d}.jpg'), cv2.resize(small, (256, 256)))
    Vocabulary.from_captions(['a river']).save(folder / 'vocabulary.json')
    model = init_model(CONFIG, text_encoder=dict(vocabulary=str(folder / 'vocabulary.json')))
    files = sorted((folder / 'images').iterdir())
    encode_images(model, files[:batch_size], batch_size)
    ours, bare = [], []
    for turn in range(rounds):
        indexer = ArchiveIndexer(model, folder / f'index_{turn}')
        bare.append(seconds(lambda: encode_images(model, files, batch_size)))
        run = indexer.update
        ours.append(seconds(lambda: run(folder / 'images', batch_size=batch_size, show_progress=False)))  # noqa: B023
    ratio = statistics.median(ours) / statistics.median(bare)
    print(
        f'{images} images in batches of {batch_size}: indexing {statistics.median(ours):.2f} s, bare encoding'
        f' {statistics.median(bare):.2f} s, {ratio:.3f} times'
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tiles', type=int, nargs='*', default=[100_000, 1_000_000], help='sizes of indexes to search')
    parser.add_argument(
        '--files', type=int, default=100_000, help='of the archive that does not change; 0 leaves it out'
    )
    parser.add_argument('--bank', type=int, default=5000, help='queries to re-rank one by; 0 leaves it out')
    parser.add_argument('--images', type=int, default=400, help='to index; 0 leaves it out')
    parser.add_argument('--dim', type=int, default=512)
    parser.add_argument('--k', type=int, default=10)
    parser.add_argument('--rounds', type=int, default=30, help='searches')
    parser.add_argument('--batch-size', type=int, default=32)
    args = parser.parse_args()
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    for tiles in args.tiles:
        with tempfile.TemporaryDirectory() as folder:
            bench_search(Path(folder), tiles, args.dim, args.k, args.rounds)
    if args.bank:
        bench_rerank(args.dim, args.bank, args.rounds)
    if args.files:
        with tempfile.TemporaryDirectory() as folder:
            bench_unchanged(Path(folder), args.files)
    if args.images:
        with tempfile.TemporaryDirectory() as folder:
            bench_indexing(Path(folder), args.images, args.batch_size, 3)


if __name__ == '__main__':
    main()
