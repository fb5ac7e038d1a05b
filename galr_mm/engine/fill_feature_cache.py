"""Compute what the frozen part of a model gives once: ``tools/cache_features.py``."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset

from galr_mm.datasets.captions import SPLITS
from galr_mm.datasets.feature_cache import (
    DTYPES,
    FeatureCache,
    as_array,
    image_fingerprint,
    read_meta,
    row_of,
    storage_type,
    write_captions,
    write_meta,
)
from galr_mm.datasets.transforms.symmetries import check_views, view_image
from galr_mm.engine.feature_cache import (
    caption_fingerprint,
    fingerprint,
    frozen_weights,
    plain,
    preprocessor_of,
    split_pipeline,
)
from galr_mm.engine.resuming import describe_start
from galr_mm.models import DualEncoder, EfficientNetLite, HuggingFaceTextEncoder
from galr_mm.models.retrievers.dual_encoder import check_cached
from galr_mm.models.visual import StagedBackbone
from galr_mm.registry import DATASETS, MODELS
from galr_mm.utils.config import datasets_of
from galr_mm.utils.io import atomic_write, file_lock
from galr_mm.utils.logging import progress
from galr_mm.utils.precision import autocast

FLUSH_EVERY = 500  # images that an interrupted run may lose; writing to disk each time would cost more


class ImageViews(Dataset[Tensor]):
    """Views of each image, uint8 (V, 3, H, W), through the steps of a pipeline."""

    def __init__(self, paths: Sequence[str], steps: Sequence[dict[str, Any]], views: Sequence[str]) -> None:
        self.paths = paths
        self.load = Compose(list(steps))
        self.views = views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """The views of one image."""
        image = self.load(dict(img_path=self.paths[index]))['img']
        views = [np.ascontiguousarray(view_image(image, view).transpose(2, 0, 1)) for view in self.views]
        if len({view.shape for view in views}) > 1:
            raise ValueError(
                f'{self.paths[index]} is {image.shape[1]} x {image.shape[0]} pixels: quarter turns of it have another '
                'shape; resize to a square'
            )
        return torch.from_numpy(np.stack(views))


def cache_features(
    cfg: Config,
    out: str | Path,
    stage: int | str | None = None,
    views: Sequence[str] | None = None,
    dtype: str = 'float16',
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = 'cpu',
) -> dict[str, Any]:
    """Store what the frozen part of a config's model gives for all images and captions of its data sets.

    Training images get all views that their pipeline draws, the others the one they are tested on. An interrupted run
    goes on after the last finished images when it is started again.

    Args:
        cfg: a training config with a :class:`galr_mm.DualEncoder` or GaLR; ``load_from`` is loaded.
        out: folder to fill.
        stage: the stage after which to cut, or 'pooled'. By default the last frozen one, and 'pooled' where all are
            frozen and nothing else needs the maps.
        views: of training images; by default those of its pipeline.
        dtype: 'float16', 'bfloat16' or 'float32'.
        batch_size: views that go through the network at once.
        num_workers: processes that load images.
        device: of the model.

    Returns:
        ``meta`` of the cache.

    Raises:
        ValueError: when the model or a pipeline does not allow it, a value does not fit ``dtype``, or what is there is
            damaged.
        FileExistsError: when ``out`` holds a cache of another kind.
        BlockingIOError: when another run is filling it.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype is {dtype!r}, expected one of {", ".join(DTYPES)}')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    if num_workers < 0:
        raise ValueError(f'num_workers is {num_workers}, expected 0 or more')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    preprocessor = preprocessor_of(cfg)
    if cfg.model.get('data_preprocessor') is None and preprocessor is not None:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(cfg.model)
    if not isinstance(model, DualEncoder):
        raise ValueError(f'the model is a {type(model).__name__}, expected a galr_mm.DualEncoder or GaLR')
    stage = default_stage(model) if stage is None else stage
    check_cached(model, stage)
    model.init_weights()
    if cfg.get('load_from'):  # as the training will
        loaded = load_checkpoint(model, cfg.load_from, map_location='cpu')
        if message := describe_start(loaded, model, cfg.load_from):
            print_log(message, 'current', logging.WARNING)
    model.eval().to(device)
    found = contents(cfg)
    views = found.views if views is None else check_views(views)
    meta: dict[str, Any] = dict(
        stage=stage,
        dtype=dtype,
        views=['identity', *(view for view in views if view != 'identity')],
        image_steps=found.steps,
        data_preprocessor=preprocessor,
        precision=model.precision,
        weights=fingerprint(frozen_weights(model, stage)),
        captions=caption_fingerprint(model.text_encoder),
        names=[*found.training, *found.others],
        images=[image_fingerprint(path) for path in [*found.training.values(), *found.others.values()]],
        num_training=len(found.training),
    )
    out = Path(out)
    with file_lock(out / 'meta.json'):
        if (out / 'meta.json').is_file():
            started = read_meta(out)
            different = [key for key in meta if started.get(key) != plain(meta[key])]
            if different:
                raise FileExistsError(
                    f'{out} holds a cache with other {", ".join(different)}; choose another folder, or delete it'
                )
            if started.get('complete'):
                FeatureCache(out).captions()  # which look whether it is damaged
                return started
        else:
            for left in ('features.npy', 'done.npy', 'captions.npz'):  # of which nothing is known
                (out / left).unlink(missing_ok=True)
        fill_images(model, found, meta, out, batch_size, num_workers, device)
        if meta['captions'] is not None:
            fill_captions(model, found.captions, out)
        meta['complete'] = True
        write_meta(out, meta)
    return meta


def default_stage(model: DualEncoder) -> int | str:
    """Where to cut: after the last frozen stage, or 'pooled' where nothing after it needs maps."""
    try:
        check_cached(model, 'pooled')
    except ValueError:
        stages = getattr(model.backbone, 'frozen_stages', -1)
        if stages < 0:
            raise ValueError(
                'nothing of the backbone is frozen in stages, so there is nothing to cache; set '
                'model.backbone.frozen_stages'
            ) from None
        return stages
    return 'pooled'


class Contents(NamedTuple):
    """What a config's data sets hold.

    Args:
        training: path by file name, of the images that are trained on.
        others: of those that are not.
        views: drawn in training.
        steps: of the pipeline that make an image.
        captions: each once.
    """

    training: dict[str, str]
    others: dict[str, str]
    views: tuple[str, ...]
    steps: list[dict[str, Any]]
    captions: list[str]


def contents(cfg: Config) -> Contents:
    """Read the data sets of a config.

    Raises:
        ValueError: when their pipelines cannot be cached, or two images have one name.
    """
    paths: dict[str, str] = {}
    training: set[str] = set()
    captions: dict[str, None] = {}
    drawn: tuple[str, ...] = ('identity',)
    all_steps: list[dict[str, Any]] | None = None
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        for config in datasets_of(loader.dataset) if loader is not None else []:
            steps, views = split_pipeline(config.pipeline)
            if all_steps is not None and steps != all_steps:
                raise ValueError(f'the pipelines load images differently: {all_steps} and {steps}')
            all_steps = steps
            drawn = views if split == 'train' else drawn
            dataset: BaseDataset = DATASETS.build(config)
            for index in range(len(dataset)):
                sample = dataset.get_data_info(index)
                name, path = sample['file_name'], sample['img_path']
                if paths.setdefault(name, path) != path:
                    raise ValueError(f'two images are called {name}: {paths[name]} and {path}')
                if split == 'train':
                    training.add(name)
                texts = sample['text'] if isinstance(sample['text'], list) else [sample['text']]
                captions.update(dict.fromkeys(text for text in texts if isinstance(text, str)))
    if all_steps is None:
        raise ValueError('the config has no data loaders')
    return Contents(
        {name: path for name, path in paths.items() if name in training},
        {name: path for name, path in paths.items() if name not in training},
        drawn,
        all_steps,
        list(captions),
    )


@torch.no_grad()
def fill_images(
    model: DualEncoder,
    found: Contents,
    meta: dict[str, Any],
    out: Path,
    batch_size: int,
    num_workers: int,
    device: str,
) -> None:
    """Fill ``features.npy`` from where ``done.npy`` says it stopped; completes ``meta``."""
    views, stage, dtype = meta['views'], meta['stage'], meta['dtype']
    network = fused(model) if isinstance(model.backbone, EfficientNetLite) else model

    def features(pixels: Tensor) -> Tensor:
        inputs = network.data_preprocessor(dict(inputs=pixels))['images'].to(device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if stage == 'pooled':
            return network.extract_maps(inputs).maps[-1].mean(dim=(2, 3), keepdim=True)
        with autocast(network.precision, inputs.device):
            assert isinstance(network.backbone, StagedBackbone)
            return network.backbone.forward_until(inputs, stage).float()

    paths = [*found.training.values(), *found.others.values()]
    sample = ImageViews(paths[:1], found.steps, views)[0]
    meta['image_shape'] = list(sample.shape[-2:])
    meta['shape'] = list(features(sample[:1]).shape[1:])
    write_meta(out, meta)
    rows = len(found.training) * len(views) + len(found.others)
    stored, made = open_array(out / 'features.npy', (rows, *meta['shape']), storage_type(dtype))
    done, _ = open_array(out / 'done.npy', (len(paths),), np.bool_)
    if made:
        done[:] = False
    with progress(total=len(paths), initial=int(done.sum()), unit='image') as bar:
        for part, some in ((range(len(found.training)), views), (range(len(found.training), len(paths)), views[:1])):
            todo = [image for image in part if not done[image]]
            each = max(1, batch_size // len(some))
            images = ImageViews([paths[image] for image in todo], found.steps, some)
            loader = DataLoader(images, each, num_workers=num_workers)
            pending: list[int] = []
            for start, pixels in zip(range(0, len(todo), each), loader, strict=True):
                batch = todo[start : start + len(pixels)]
                rows_of_batch = [row_of(image, view, meta) for image in batch for view in range(len(some))]
                stored[rows_of_batch] = as_array(features(pixels.flatten(0, 1)), dtype)
                pending += batch
                bar.update(len(pixels))
                if len(pending) >= FLUSH_EVERY or start + each >= len(todo):
                    stored.flush()  # before they count as done
                    done[pending] = True
                    pending = []
    stored.flush()
    done.flush()


def open_array(path: Path, shape: tuple[int, ...], dtype: type) -> tuple[np.memmap, bool]:
    """An array on disk, and whether it was made now, full of zeros: one that does not fit, or is damaged, is replaced.

    Raises:
        OSError: when it does not fit on the disk; names the file.
    """
    if path.is_file():
        with contextlib.suppress(ValueError, EOFError):
            found = np.load(path, mmap_mode='r')  # 'r+' would fill up a file that is too short
            if found.shape == shape and found.dtype == dtype:
                return np.load(path, mmap_mode='r+'), False
    with atomic_write(path) as part:
        np.lib.format.open_memmap(part, 'w+', dtype, shape)
        if hasattr(os, 'posix_fallocate'):  # on a full disk, writing to a mapped page would be the end of the process
            with part.open('r+b') as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    return np.load(path, mmap_mode='r+'), True


@torch.no_grad()
def fill_captions(model: DualEncoder, captions: Sequence[str], out: Path, batch_size: int = 256) -> None:
    """Write ``captions.npz``: each caption once, in the order of their lengths, which saves padding."""
    encoder = model.text_encoder
    assert isinstance(encoder, HuggingFaceTextEncoder)
    ordered = sorted(captions, key=len)
    for start in progress(range(0, len(ordered), batch_size), unit='batch', desc='captions'):
        encoder(ordered[start : start + batch_size])
    write_captions(out / 'captions.npz', list(encoder.known), torch.stack(list(encoder.known.values())))


def fused(model: DualEncoder) -> DualEncoder:
    """A copy whose convolutions hold the BatchNorm that follows them: a third less time, equal but for rounding."""
    model = copy.deepcopy(model)
    assert model.backbone is not None
    for module in model.backbone.modules():
        names = [name for name, _ in module.named_children()]
        for first, second in zip(names, names[1:], strict=False):
            conv, norm = getattr(module, first), getattr(module, second)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, norm.act if hasattr(norm, 'act') else nn.Identity())
    return model
