"""Evaluation of a split against the steps of the released code: ``python benchmarks/bench_evaluation.py [CONFIG]``.

The released code loads an image once a caption, then runs the whole model on each pair of 128 images and 128 captions,
so it encodes every image once for each 128 captions, and at last sorts the scores of every query. Both sides have the
same model (with random weights, which time does not depend on), pipeline and loader. Of the released pairs ``--calls``
are timed and compared with our scores; what an image and a caption took there stands for all. Both are also scaled to
``--to`` images: what is done once an image grows with them, encoding with the shards, sorting with the square.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import DataLoader

from galr_mm.cli.common import ConfigOptions, load_config
from galr_mm.models import DualEncoder
from galr_mm.models.text import TokenizedTextEncoder
from galr_mm.registry import DATASETS
from galr_mm.structures import RetrievalScores

SHARD, CAPTIONS = 128, 5
CONFIG = str(Path(__file__).resolve().parents[1] / 'configs/dual_encoder_ucm_128px.py')


class Times(NamedTuple):
    """Seconds of one round; ``image`` and ``caption`` are those of one, encoded in shards."""

    ours: float
    loading: float
    image: float
    caption: float
    recalls: float

    def scaled(self, images: int, to: int) -> tuple[float, float]:
        """Ours and the released steps for ``to`` images in place of ``images``."""
        scale, captions = to / images, CAPTIONS * to
        encoding = self.image * to * shards(captions) + self.caption * captions * shards(to)
        return self.ours * scale, self.loading * scale + encoding + self.recalls * scale**2


def shards(count: int) -> int:
    """How many the released code makes of so many images or captions."""
    return math.ceil(count / SHARD)


def load_as_released(
    loader: DataLoader, model: DualEncoder, now: Callable[[], float]
) -> tuple[np.ndarray, list[DataSample], float]:
    """Normalized images as float64 (N, 3, H, W), their samples, and the seconds; ``loader`` gives each 5 times.

    There all are in memory at once, 7 GB for RSICD's test at 224 px; here one of the 5 is kept.
    """
    samples: list[DataSample] = []
    start, images = now(), []
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        first = -len(samples) % CAPTIONS
        images.append(data['images'].double().numpy()[first::CAPTIONS].copy())
        samples += data['data_samples']
    return np.concatenate(images), samples[::CAPTIONS], now() - start


@torch.no_grad()
def call_as_released(
    images: np.ndarray,
    samples: Sequence[DataSample],
    pair: tuple[int, int],
    model: DualEncoder,
    tokenize: Callable[[Sequence[str]], Tensor],
    scores: RetrievalScores,
    now: Callable[[], float],
) -> tuple[float, float]:
    """Seconds an image and a caption of the whole model on one pair of shards; its scores must be ours."""
    rows, columns = (slice(SHARD * i, SHARD * (i + 1)) for i in pair)
    # both are read from files there: no part of the time
    graph = model.build_graph(torch.from_numpy(images[rows]).float(), list(samples[rows]))
    texts = [text for sample in samples for text in sample.text][columns]
    words = tokenize(texts)
    start = now()
    pixels = torch.from_numpy(images[rows]).float()
    image_feat = model.encode_image(pixels, graph)
    between = now()
    block = (image_feat @ model.encode_text(words).t()).numpy()
    end = now()
    np.testing.assert_allclose(block, scores.i2t[rows, columns].numpy(), atol=1e-4)
    return (between - start) / len(pixels), (end - between) / len(words)


def recalls_as_released(similarity: np.ndarray, now: Callable[[], float]) -> float:
    """Seconds of its ranks: one sort a query, one search a positive."""
    start, ranks = now(), []
    for image, row in enumerate(similarity):
        order = np.argsort(row)[::-1]
        ranks.append(min(np.where(order == CAPTIONS * image + i)[0][0] for i in range(CAPTIONS)))
    for caption, row in enumerate(similarity.T):
        ranks.append(np.where(np.argsort(row)[::-1] == caption // CAPTIONS)[0][0])
    return now() - start


def build(cfg: Config, indices: Sequence[int]) -> DataLoader:
    """The test loader for some of the images, in that order, each as often as it is named."""
    settings = copy.deepcopy(cfg.test_dataloader)
    settings.dataset.indices = list(indices)
    return Runner.build_dataloader(settings)


def parse_args() -> argparse.Namespace:
    """Flags, and those of tools/test.py that :func:`load_config` reads."""
    parser = argparse.ArgumentParser(description='Benchmark evaluation')
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument('--images', type=int, help='a random part of the test split; by default all')
    parser.add_argument('--to', type=int, default=1093, help='images to scale to; by default those of RSICD test')
    parser.add_argument('--calls', type=int, default=4, help='pairs of shards that are timed in a round')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, help='of torch')
    parser.add_argument('--workers', type=int, help='of the data loader, in place of those of the config')
    parser.add_argument(
        '--cpu-time', action='store_true', help='CPU seconds of this process, for busy machines; without workers'
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    parser.set_defaults(
        launcher='none', no_pin_memory=False, no_persistent_workers=False, feature_cache=None, work_dir=None
    )
    args = parser.parse_args()
    if args.cpu_time:
        if args.workers:
            parser.error(f'--cpu-time does not see what --workers {args.workers} do')
        args.workers = 0
    return args


def main() -> None:
    """Let both take turns and print a table."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    now = time.process_time if args.cpu_time else time.perf_counter
    cfg = load_config(args, ('model', 'test_dataloader', 'test_evaluator'))
    if args.workers is not None:
        cfg.test_dataloader.num_workers = args.workers
    cfg.test_dataloader.persistent_workers = False
    cfg.train_cfg = cfg.train_dataloader = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.log_level = 'WARNING'
    total = len(DATASETS.build(cfg.test_dataloader.dataset))
    chosen = sorted(random.Random(0).sample(range(total), min(args.images or total, total)))
    repeated = build(cfg, [index for index in chosen for _ in range(CAPTIONS)])
    cfg.test_dataloader.dataset.indices = chosen
    pairs = [(i, j) for i in range(shards(len(chosen))) for j in range(shards(CAPTIONS * len(chosen)))]
    draw, rounds = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg)
        model, loop = runner.model, runner.test_loop
        if not isinstance(model, DualEncoder) or not isinstance(model.text_encoder, TokenizedTextEncoder):
            raise SystemExit('the released steps are there for a DualEncoder or a GaLR whose captions are word ids')
        model.eval()
        tokenize = model.text_encoder.tokenize
        runner.call_hook('before_run')  # the logger's files
        for _ in range(args.rounds):
            start = now()
            loop.run()
            ours = now() - start
            scores = runner.test_evaluator.result.raw
            images, samples, loading = load_as_released(repeated, model, now)
            timed = draw.sample(pairs, min(args.calls, len(pairs)))
            both = [call_as_released(images, samples, pair, model, tokenize, scores, now) for pair in timed]
            image, caption = (statistics.mean(seconds) for seconds in zip(*both, strict=True))
            rounds.append(Times(ours, loading, image, caption, recalls_as_released(scores.i2t.numpy(), now)))
            print(f'round {len(rounds)}: {rounds[-1]}', flush=True)
    print(
        f'\n{Path(args.config).name}, {cfg.test_dataloader.num_workers} workers, {torch.get_num_threads()} threads, '
        f'median of {args.rounds} rounds{"; CPU seconds" if args.cpu_time else ""}\n'
    )
    print('| images | model calls | released steps, s | ours, s | times faster |\n| --- | --- | --- | --- | --- |')
    for to in dict.fromkeys((len(chosen), args.to)):
        sides = [times.scaled(len(chosen), to) for times in rounds]
        ours, released = (statistics.median(side) for side in zip(*sides, strict=True))
        ratios = [theirs / mine for mine, theirs in sides]
        name = f'{to}, scaled' if to != len(chosen) else f'{to}'
        spread = f'{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})'
        print(f'| {name} | {shards(to) * shards(CAPTIONS * to)} | {released:.1f} | {ours:.2f} | {spread} |')


if __name__ == '__main__':
    main()
