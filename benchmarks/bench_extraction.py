"""Images a second of proposal extraction against mmdet's own ``inference_detector``, which goes one by one.

``python benchmarks/bench_extraction.py DET_CONFIG DET_CKPT IMAGES [--num 200]``; the two take turns in one run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from mmengine.registry import DefaultScope

from galr_mm.detection.detector import MMDetDetector
from galr_mm.detection.extraction import Settings, detect
from galr_mm.imagery import list_images


def main() -> None:
    """Run both twice and print a table of the better times."""
    parser = argparse.ArgumentParser(description='Benchmark proposal extraction')
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('images', type=Path)
    parser.add_argument('--num', type=int, default=200, help='images')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--num-workers', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    root, names = list_images(args.images)
    names = names[: args.num]
    detector = MMDetDetector(args.checkpoint, args.config, args.device)
    from mmdet.apis import inference_detector, init_detector

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = init_detector(str(args.config), str(args.checkpoint), device=args.device)
    seconds: dict[str, list[float]] = {'inference_detector': [], 'extraction': []}
    for _ in range(2):
        start = time.perf_counter()
        with DefaultScope.overwrite_default_scope('mmdet'):
            for name in names:
                inference_detector(model, str(root / name))
        seconds['inference_detector'].append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in detect(detector, root, names, Settings(), args.batch_size, args.num_workers):
            pass
        seconds['extraction'].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in seconds.items()}
    print(f'{args.config.name}, {len(names)} images, {args.device}, {torch.get_num_threads()} threads')
    print('| | images / s |\n| --- | --- |')
    for name, value in best.items():
        print(f'| {name} | {len(names) / value:.1f} |')
    print(f'extraction is {best["inference_detector"] / best["extraction"]:.2f} times as fast')


if __name__ == '__main__':
    main()
