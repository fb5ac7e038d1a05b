"""The training split as a bank of queries for re-rankers that want one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import print_log
from mmengine.runner import Runner, autocast
from torch.utils.data import DataLoader

from galr_mm.datasets import ImageTextDataset
from galr_mm.evaluation.gathering import bank_of, record_of
from galr_mm.registry import DATASETS
from galr_mm.structures import QueryBank


class TrainingBank:
    """Encodes training images and their captions as a test encodes its own; called, it gives their features.

    The data set is that of ``train_dataloader``, in test mode and with the pipeline of the loop, so that nothing is
    augmented. Each process encodes its shard, all get the bank.

    Args:
        runner: with a ``train_dataloader`` in its config.
        loop: the test or validation loop.
        images: at most so many images are chosen; None for all.
        seed: of the choice.

    Raises:
        ValueError: when the config has no training data of this kind, so before the first batch of the test.
    """

    def __init__(self, runner: Runner, loop: Any, images: int | None, seed: int) -> None:
        self.model = runner.model
        self.fp16 = bool(getattr(loop, 'fp16', False))
        dataset = training_set(runner.cfg.get('train_dataloader'))
        if not hasattr(loop.dataloader.dataset, 'pipeline'):
            raise ValueError(
                'a re-ranker wants a bank of training queries, which go through the pipeline of the test; '
                f'{type(loop.dataloader.dataset).__name__} has none'
            )
        dataset.pipeline = loop.dataloader.dataset.pipeline
        total = len(dataset)
        if images is not None and images < total:
            chosen = np.random.default_rng(seed).choice(total, images, replace=False)
            dataset.get_subset_(sorted(chosen.tolist()))
        self.description = f'{len(dataset)} of {total} images of split {dataset.split!r} of {dataset.ann_file}'
        self.loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=loop.dataloader.batch_size or 1,
            sampler=DefaultSampler(dataset, shuffle=False),
            num_workers=loop.dataloader.num_workers,
            collate_fn=loop.dataloader.collate_fn,
        )

    @torch.no_grad()
    def __call__(self) -> QueryBank:
        """Encode. The model stays in the mode in which the loop runs it."""
        print_log(f'query bank: encoding {self.description}', 'current')
        records: list[dict] = []
        for batch in self.loader:
            with autocast(enabled=self.fp16):
                records += [record_of(sample) for sample in self.model.test_step(batch)]
        bank = bank_of(records)
        print_log(f'query bank: {len(bank.image_feat)} images and {len(bank.text_feat)} captions', 'current')
        return bank


def training_set(loader: Any) -> ImageTextDataset:
    """The data set of a ``train_dataloader`` as a test would read it, one sample an image, without a pipeline.

    Raises:
        ValueError: when there is none, or it is of another type.
    """
    config: Any = loader.get('dataset') if hasattr(loader, 'get') else None
    kind = DATASETS.get(config['type']) if hasattr(config, 'get') and isinstance(config.get('type'), str) else None
    if not (isinstance(kind, type) and issubclass(kind, ImageTextDataset)):
        got = 'no train_dataloader' if loader is None else 'a train_dataloader.dataset of another type'
        raise ValueError(
            f'a re-ranker wants a bank of training queries, for which the config needs train_dataloader=dict('
            f"dataset=dict(type='galr_mm.ImageTextDataset', ...), ...); it has {got}"
        )
    apart = ('type', 'indices', 'test_mode')
    options = {**{name: value for name, value in config.items() if name not in apart}, 'pipeline': []}
    chosen = config.get('indices')
    dataset = kind(**options, test_mode=True)
    if chosen is not None:  # they may be of captions there, and are of images here
        trained = kind(**options, indices=chosen)
        images = {trained.get_data_info(index)['image_id'] for index in range(len(trained))}
        dataset.get_subset_(
            [index for index in range(len(dataset)) if dataset.get_data_info(index)['image_id'] in images]
        )
    return dataset
