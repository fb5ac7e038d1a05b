"""Images a second of training, our Runner against a plain PyTorch loop: ``python benchmarks/bench_train.py [CONFIG]``.

The Runner is that of ``tools/train.py``, hooks and logging included. The plain loop has the same weights, loss,
optimizer and batch size, and does the rest in the most direct way: cv2, one uint8 tensor a batch, captions as word ids
made before, channels_last. They take turns, an epoch of ``--iterations`` each, in one process; ratios are of epochs
that follow each other. benchmarks/README.md explains the table.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from galr_mm.cli.common import ConfigOptions, load_config
from galr_mm.datasets import ImageTextDataset
from galr_mm.models import BiGRUEncoder, DualEncoder, GaLR
from galr_mm.registry import DATASETS

PARTS = ('loading', 'forward', 'backward, step', 'rest')
CONFIG = str(Path(__file__).resolve().parents[1] / 'configs/dual_encoder_ucm_128px.py')
AUGMENTATION = ['LoadImageWithProposals', 'RandomResize', 'RandomCrop', 'RandomFlip', 'PackRetrievalInputs']
T = TypeVar('T')


@dataclass
class Clock:
    """Seconds of each iteration of an epoch: from the end of the one before, and of its parts."""

    now: Callable[[], float]
    iterations: list[dict[str, float]] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    last: float = 0.0

    def start(self) -> None:
        """Begin an epoch."""
        self.iterations, self.parts, self.last = [], {}, self.now()

    def timed(self, part: str, call: Callable[..., T]) -> Callable[..., T]:
        """The same function, its time counted as a part."""

        def wrapper(*args: Any, **kwargs: Any) -> T:
            start = self.now()
            result = call(*args, **kwargs)
            self.parts[part] = self.parts.get(part, 0.0) + self.now() - start
            return result

        return wrapper

    def loaded(self) -> None:
        """A batch is there."""
        self.parts['loading'] = self.now() - self.last

    def end_iteration(self) -> None:
        """All is done for this batch; what no part has is the rest."""
        now = self.now()
        whole = now - self.last
        rest = whole - sum(self.parts.values())
        self.iterations.append({**self.parts, 'rest': rest, 'all': whole})
        self.parts, self.last = {}, now

    def seconds(self, skip: int) -> dict[str, float]:
        """Mean seconds an iteration, without the first ``skip``."""
        kept = self.iterations[skip:]
        return {part: sum(i.get(part, 0.0) for i in kept) / len(kept) for part in (*PARTS, 'all')}


class PlainData(Dataset):
    """Image with one caption: decoded, resized, cropped and flipped by cv2 and numpy as the pipeline of 128 px does."""

    def __init__(self, dataset: ImageTextDataset, encoder: BiGRUEncoder) -> None:
        steps = [type(step).__name__ for step in dataset.pipeline.transforms]
        if steps != AUGMENTATION or dataset.captions != 'each' or dataset.proposals is not None:
            raise SystemExit(f'the plain loop knows one caption an image, no proposals and {AUGMENTATION}, not {steps}')
        _, resize, crop, flip, _ = dataset.pipeline.transforms
        self.scale, self.ratio_range, self.size = resize.scale, resize.ratio_range, crop.crop_size
        self.flips = dict(zip(flip.direction, flip.prob, strict=True))
        samples = [dataset.get_data_info(i) for i in range(len(dataset))]
        self.paths = [sample['img_path'] for sample in samples]
        self.ids = torch.tensor([[sample['image_id'].row, sample['caption_id']] for sample in samples])
        self.words = [torch.tensor(encoder.vocabulary.encode(sample['text'])) for sample in samples]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor, Tensor]:
        image = cv2.imread(self.paths[index])
        if image is None:
            raise OSError(f'cannot read the image {self.paths[index]}')
        ratio = np.random.uniform(*self.ratio_range)
        image = cv2.resize(image, tuple(int(side * ratio) for side in self.scale))
        height, width = self.size
        top, left = (np.random.randint(n - m + 1) for n, m in zip(image.shape, self.size, strict=False))
        image = image[top : top + height, left : left + width]
        draw = np.random.rand()  # as mmcv's: at most one of the directions
        if draw < self.flips['horizontal']:
            image = image[:, ::-1]
        elif draw < self.flips['horizontal'] + self.flips['vertical']:
            image = image[::-1]
        return image, self.words[index], self.ids[index]

    @staticmethod
    def collate(samples: Sequence[tuple[np.ndarray, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (B, H, W, 3), word ids (B, L) and ids of image and caption (B, 2)."""
        images, words, ids = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(images)), pad_sequence(words, batch_first=True), torch.stack(ids)


class PlainLoop:
    """Training of a :class:`DualEncoder`'s parts without mmengine's loop, data samples and hooks."""

    def __init__(self, model: DualEncoder, data: PlainData, cfg: Config) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()
        loader, settings = cfg.train_dataloader, cfg.optim_wrapper
        workers = loader.num_workers
        self.loader: DataLoader = DataLoader(
            data,
            loader.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            collate_fn=data.collate,
        )
        self.optimizer = build_optim_wrapper(model, dict(settings, clip_grad=None)).optimizer
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.01, total_iters=100)
        self.max_norm = settings.clip_grad.max_norm
        # (x - mean) / std as x * gain + shift, for channels in the order cv2 gives them
        mean, std = (torch.tensor(cfg.data_preprocessor[name])[[2, 1, 0]] for name in ('mean', 'std'))
        self.gain, self.shift = 1 / std, -mean / std

    def losses(self, images: Tensor, words: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch."""
        model = self.model
        pixels = (images.float() * self.gain + self.shift)[..., [2, 1, 0]].permute(0, 3, 1, 2)  # channels_last
        image_feat = F.normalize(model.visual(model.backbone(pixels)).embedding, dim=-1)
        text_feat = F.normalize(model.text_encoder.encode_ids(words), dim=-1)
        return model.loss_module(image_feat, text_feat, ids[:, 0], ids[:, 1])['loss_contrastive']

    def step(self, loss: Tensor) -> None:
        """Backward pass and optimizer."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def epoch(self, clock: Clock) -> float:
        """Train one epoch; gives the mean loss."""
        losses = []
        forward = clock.timed('forward', self.losses)
        step = clock.timed('backward, step', self.step)
        clock.start()
        for images, words, ids in self.loader:
            clock.loaded()
            loss = forward(images, words, ids)
            step(loss)
            losses.append(loss.item())
            clock.end_iteration()
        return statistics.mean(losses)


class TakeTurns(Hook):
    """Times the Runner's iterations, and gives the plain loop its turn after each epoch."""

    priority = 'LOWEST'  # so that the hooks of the config are inside of what is timed

    def __init__(self, plain: PlainLoop, skip: int, now: Callable[[], float]) -> None:
        self.plain, self.skip = plain, skip
        self.clock, self.plain_clock = Clock(now), Clock(now)
        self.rounds: list[tuple[dict[str, float], dict[str, float]]] = []

    def before_train(self, runner: Runner) -> None:
        """Time the backward pass with the optimizer, and the forward pass with the preprocessing around it."""
        model, wrapper, clock = runner.model, runner.optim_wrapper, self.clock
        wrapper.update_params = clock.timed('backward, step', wrapper.update_params)
        preprocess, run = model.data_preprocessor.forward, model.forward
        model.data_preprocessor.forward = clock.timed('forward', preprocess)
        model.forward = clock.timed('forward', run)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin."""
        self.clock.start()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The batch is there, and the hooks before it are done."""
        self.clock.loaded()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """After all other hooks."""
        self.clock.end_iteration()

    def after_train_epoch(self, runner: Runner) -> None:
        """The other's turn."""
        loss = self.plain.epoch(self.plain_clock)
        ours, plain = self.clock.seconds(self.skip), self.plain_clock.seconds(self.skip)
        self.rounds.append((ours, plain))
        batch = runner.cfg.train_dataloader.batch_size
        print(
            f'round {len(self.rounds)}: ours {batch / ours["all"]:.2f}, plain {batch / plain["all"]:.2f} images/s; '
            f'mean loss of the plain loop {loss:.3f}',
            flush=True,
        )


def parse_args() -> argparse.Namespace:
    """Flags, and those of tools/train.py that :func:`load_config` reads."""
    parser = argparse.ArgumentParser(description='Benchmark training')
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument('--iterations', type=int, default=8, help='of an epoch; the first --skip are not counted')
    parser.add_argument('--skip', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, help='of torch')
    parser.add_argument('--workers', type=int, help='of each data loader, in place of those of the config')
    parser.add_argument(
        '--cpu-time', action='store_true', help='CPU seconds of this process, for busy machines; without workers'
    )
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    parser.set_defaults(
        launcher='none', no_pin_memory=False, no_persistent_workers=False, feature_cache=None, work_dir=None
    )
    args = parser.parse_args()
    if not 0 <= args.skip < args.iterations or args.rounds < 1:
        parser.error(f'--skip {args.skip} leaves none of --iterations {args.iterations}, or --rounds is below 1')
    if args.cpu_time:
        if args.workers:
            parser.error(f'--cpu-time does not see what --workers {args.workers} do')
        args.workers = 0
    return args


def prepare(cfg: Config, args: argparse.Namespace, folder: str) -> Config:
    """The training of the config, without validation and checkpoints, in short epochs."""
    loader = cfg.train_dataloader
    loader.dataset.indices = args.iterations * loader.batch_size
    if args.workers is not None:
        loader.num_workers = args.workers
    loader.persistent_workers = loader.num_workers > 0
    cfg.train_cfg.max_epochs = args.rounds
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    cfg.work_dir = folder
    return cfg


def spread(values: Sequence[float]) -> str:
    """Median with the lowest and the highest."""
    return f'{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})'


def main() -> None:
    """Let both take turns and print a table."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        cfg = prepare(load_config(args, ('model', 'train_dataloader', 'optim_wrapper')), args, folder)
        runner = Runner.from_cfg(copy.deepcopy(cfg))
        model = runner.model
        if not isinstance(model, DualEncoder) or isinstance(model, GaLR) or model.neck is not None:
            raise SystemExit('the plain loop trains a DualEncoder without a neck')
        if not isinstance(model.text_encoder, BiGRUEncoder) or model.precision != 'fp32':
            raise SystemExit('the plain loop trains a BiGRUEncoder in fp32')
        model.init_weights()
        data = PlainData(DATASETS.build(cfg.train_dataloader.dataset), model.text_encoder)
        plain = PlainLoop(copy.deepcopy(model), data, cfg)
        turns = TakeTurns(plain, args.skip, time.process_time if args.cpu_time else time.perf_counter)
        runner.register_hook(turns)
        runner.train()
    batch = cfg.train_dataloader.batch_size
    print(
        f'\n{Path(args.config).name}, batches of {batch}, {cfg.train_dataloader.num_workers} workers, '
        f'{torch.get_num_threads()} threads, {args.rounds} rounds of {args.iterations - args.skip} iterations; median '
        f'(lowest to highest){"; CPU seconds" if args.cpu_time else ""}\n'
    )
    print(f'| | images / s | {" | ".join(f"{part}, s" for part in PARTS)} |\n| --- |{" --- |" * (len(PARTS) + 1)}')
    for name, rounds in (('Runner', [r[0] for r in turns.rounds]), ('plain loop', [r[1] for r in turns.rounds])):
        cells = [f'{statistics.median(r[part] for r in rounds):.3f}' for part in PARTS]
        print(f'| {name} | {spread([batch / r["all"] for r in rounds])} | {" | ".join(cells)} |')
    print(f'\nRunner / plain loop, images / s: {spread([plain["all"] / ours["all"] for ours, plain in turns.rounds])}')


if __name__ == '__main__':
    main()
