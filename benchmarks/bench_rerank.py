"""Time and memory of the multivariate rerank: ``python benchmarks/bench_rerank.py [--only matrix features huge]``.

Prints markdown tables; every ratio is of two times from this run. benchmarks/README.md keeps a run and explains it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from galr_mm.functional import multivariate_rerank, multivariate_rerank_from_features
from galr_mm.functional.rerank.tiles import FeatureTiles

GIB = 1 << 30


def released_steps(similarity: np.ndarray, k: int = 30, contiguous: bool = False) -> np.ndarray:
    """The steps of the released script: sort all rows and all columns once, then loop over queries and candidates.

    In each loop it sums the candidate's column and looks the query up in its sorted list. Both are columns of the
    arrays as they come, the other direction being a transposed view; ``contiguous`` copies them to where they are read
    in order, which the script does not do.
    """
    queries, gallery = similarity.shape
    forward_lists = np.argsort(-similarity, axis=1, kind='stable')
    columns, reverse_lists = similarity.T, np.argsort(-similarity, axis=0, kind='stable').T
    if contiguous:
        columns, reverse_lists = np.ascontiguousarray(columns), np.ascontiguousarray(reverse_lists)
    decayed = np.exp(-0.05 * (np.arange(k) + 1))
    out = np.zeros_like(similarity)
    for query in range(queries):
        candidates = forward_lists[query, :k]
        positions, significance = np.empty(k), np.empty(k)
        for place, candidate in enumerate(candidates):
            significance[place] = similarity[query, candidate] / columns[candidate].sum()
            positions[place] = np.where(reverse_lists[candidate] == query)[0][0]
        by_reverse = candidates[np.argsort(positions, kind='stable')]
        out[query, candidates] = 0.3 * significance + decayed
        out[query, by_reverse] += 1.1 * decayed
    return out


def features(images: int, captions: int, width: int = 512, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors in 64 loose groups around one direction, captions around their images, as trained ones are."""
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(64, width, generator=g) + torch.randn(width, generator=g)
    image = centers[torch.randint(64, (images,), generator=g)] + torch.randn(images, width, generator=g)
    text = image.repeat_interleave(captions // images, dim=0)
    for part in text.split(65536):
        part.add_(torch.randn(part.shape, generator=g), alpha=1.5)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a run, and its result."""
    start = time.perf_counter()
    result = function()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def peak_above(function: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Bytes that a call held at its peak above what was held before, its result included."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = function()
        return torch.cuda.max_memory_allocated() - before, result
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _status('VmRSS')
    result = function()
    return _status('VmHWM') - before, result


def _status(name: str) -> int:
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def bench_matrix(device: torch.device) -> None:
    """Re-ranking of given matrices against the released steps, which run on the CPU; medians of runs in turn."""
    print(
        '| matrix | directions | released steps, s | the same, contiguous, s | ours, s | times faster | '
        'than contiguous | peak memory above the input / matrix |'
    )
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    for images, captions, both, runs in ((452, 2260, True, 5), (1093, 5465, True, 3), (5000, 25000, False, 1)):
        image, text = features(images, captions)
        similarity = image @ text.t()
        del image, text
        theirs = [similarity, similarity.t()] if both else [similarity]
        ours = [matrix.to(device) for matrix in theirs]

        def rerank(matrices: Sequence[Tensor] = ours) -> list[Tensor]:
            return [multivariate_rerank(matrix) for matrix in matrices]

        def released(contiguous: bool, matrices: Sequence[Tensor] = theirs) -> list[np.ndarray]:
            return [released_steps(matrix.numpy(), contiguous=contiguous) for matrix in matrices]

        peak, _ = peak_above(partial(rerank, ours[:1]), device)  # first: no freed memory is at hand yet
        times: list[list[float]] = []
        for _ in range(runs):  # in turn, so that other work on the machine meets all
            fast, results = timed(rerank, device)
            slow, expected = timed(partial(released, False), torch.device('cpu'))
            contiguous, _ = timed(partial(released, True), torch.device('cpu'))
            again, _ = timed(rerank, device)
            times.append([slow, contiguous, (fast + again) / 2])
        for got, want in zip(results, expected, strict=True):
            inside = torch.from_numpy(want) != 0
            torch.testing.assert_close(got.cpu()[inside], torch.from_numpy(want)[inside], atol=1e-5, rtol=1e-4)
        slow, contiguous, fast = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f'| {images} x {captions} | {"both" if both else "images as queries"} | {slow:.2f} | {contiguous:.2f} | '
            f'{fast:.3f} | {slow / fast:.0f} | {contiguous / fast:.0f} | {peak / similarity.numel() / 4:.2f} |',
            flush=True,
        )


def bench_features(device: torch.device, images: int, captions: int, bare: bool = True) -> None:
    """Re-ranking from features against the bare product in the same tiles."""
    image, text = (x.to(device) for x in features(images, captions))

    def ours() -> float:
        return timed(lambda: multivariate_rerank_from_features(image, text), device)[0]

    def products() -> float:
        return timed(lambda: sum(tile[0, 0].item() for _, _, tile in FeatureTiles(image, text)), device)[0]

    peak, seconds = peak_above(ours, device)
    product = 0.0
    if bare:  # in turn, so that other work on the machine meets both
        product, seconds, again = products(), ours(), products()
        product = min(product, again)
    print('| features | seconds | bare product, s | ratio | peak memory above the features, GiB |')
    print('| --- | --- | --- | --- | --- |')
    print(
        f'| {images} x {captions}, 512 | {seconds:.1f} | {f"{product:.1f}" if bare else "-"} | '
        f'{f"{seconds / product:.2f}" if bare else "-"} | {peak / GIB:.2f} |',
        flush=True,
    )


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description='Benchmark the multivariate rerank')
    parser.add_argument('--only', nargs='+', choices=['matrix', 'features', 'huge'], default=['matrix', 'features'])
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor() or platform.machine()
    print(f'{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, k=30, float32\n')
    multivariate_rerank(torch.rand(64, 64, device=device))
    if 'matrix' in args.only:
        bench_matrix(device)
    if 'features' in args.only:
        bench_features(device, 20_000, 100_000)
    if 'huge' in args.only:
        bench_features(device, 100_000, 500_000, bare=False)


if __name__ == '__main__':
    main()
