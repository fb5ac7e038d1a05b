"""Engines of an archive: ``python -m benchmarks.bench_engines [--index DIR --captions A.json] [--server URL]``.

One index, searched exactly, through a file of Milvus Lite (FLAT), and through a server twice, FLAT and HNSW: seconds to
fill, latency of single searches (asking, and scoring the hits anew), recall of the tiles that the exact search gives,
memory. Every engine answers the same queries, and takes its turn after each of them.

With ``--index`` it is an archive's own, made with the model that comes with the package, and the queries are different
captions of the test split of ``--captions`` (Karpathy-style json). Without, ``--vectors`` random vectors are
searched by others, which is the hardest case for a graph.
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
from galr_mm.apis import encode_texts, get_model, pretrained_models
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


def caption_queries(captions: Path, count: int) -> np.ndarray:
    """Vectors of different captions of the test split by the model of the package, float32 (n, D)."""
    images = json.loads(captions.read_text())['images']
    texts = [s['raw'] for image in images if image['split'] == 'test' for s in image['sentences']]
    different = list(dict.fromkeys(' '.join(text.split()) for text in texts))
    chosen = np.random.default_rng(0).permutation(len(different))[:count]
    model = get_model(pretrained_models()[0], pretrained=True)
    return encode_texts(model, [different[n] for n in chosen]).numpy()


def random_index(folder: Path, vectors: np.ndarray) -> None:
    """An index of these vectors, a tile each."""
    whole = [Tile(Window(0, 0, 256, 256))]
    with open_writer(folder, ModelId('0' * 64, vectors.shape[1], 'a benchmark')) as writer:
        for start in range(0, len(vectors), BATCH):
            rows = range(start, min(start + BATCH, len(vectors)))
            states = [(b'%09d.png' % n, FileState(n, n), n.to_bytes(16, 'big'), (256, 256), whole) for n in rows]
            writer.put([Entry(*state, vectors[n : n + 1]) for n, state in zip(rows, states, strict=True)])


def main() -> None:
    """Fill, search, print a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--index', type=Path, help='of an archive, made with the model of the package')
    parser.add_argument('--captions', type=Path, help='json of the captions that are searched for, with --index')
    parser.add_argument('--vectors', type=int, default=100_000, help='random ones, without --index')
    parser.add_argument('--dim', type=int, default=512, help='of random vectors')
    parser.add_argument('--queries', type=int, default=200)
    parser.add_argument('--k', type=int, default=10)
    parser.add_argument('--server', help='address of a Milvus server, whose collections bench_flat and bench_hnsw go')
    parser.add_argument('--server-process', type=int, help='its process id, for its memory')
    args = parser.parse_args()
    if (args.index is None) != (args.captions is None):
        parser.error('--index and --captions go together')
    with tempfile.TemporaryDirectory() as folder:
        if args.index:
            bench(args.index, Path(folder), caption_queries(args.captions, args.queries), args)
        else:
            random_index(Path(folder, 'index'), unit_vectors(args.vectors, args.dim, 0))
            bench(Path(folder, 'index'), Path(folder), unit_vectors(args.queries, args.dim, 1), args)


def bench(index: Path, folder: Path, queries: np.ndarray, args: argparse.Namespace) -> None:
    """All engines on one index; what Milvus Lite holds goes into the folder."""
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
        with open_writer(index) as writer, mock.patch.object(milvus, 'GRAPH', graph):
            filling[name] = fill_engine(writer, address).seconds
        memory[name] = own_memory(process) - before if process else float('nan')
    with ArchiveIndex(index) as opened, opened.snapshot() as snapshot:
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
        vectors = snapshot.vectors(np.arange(snapshot.rows))
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
