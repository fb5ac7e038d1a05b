"""Train from a cache of what the frozen part of a model gives; ``fill_feature_cache.py`` fills it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from galr_mm.datasets.captions import SPLITS
from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.datasets.transforms import LoadCachedFeatures, PackRetrievalInputs, RandomD4
from galr_mm.datasets.transforms.symmetries import VIEWS
from galr_mm.models import DualEncoder, HuggingFaceTextEncoder
from galr_mm.models.visual import StagedBackbone
from galr_mm.utils.config import datasets_of

PLAIN_PREPROCESSOR = dict(type='mmpretrain.MultiModalDataPreprocessor')  # passes features on
HOOK = dict(type='galr_mm.FeatureCacheHook')


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights, names included."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def frozen_weights(model: DualEncoder, stage: int | str) -> dict[str, Tensor]:
    """Weights of the part of the backbone that a cache of ``stage`` replaces."""
    backbone = model.backbone
    assert backbone is not None  # check_cached has looked
    if stage == 'pooled':
        return dict(backbone.state_dict())
    assert isinstance(backbone, StagedBackbone)
    parts = [backbone.stage(index) for index in range(int(stage) + 1)]
    return {f'{i}.{name}': value for i, part in enumerate(parts) for name, value in part.state_dict().items()}


def caption_fingerprint(encoder: nn.Module) -> str | None:
    """Of a text encoder whose caption vectors can be cached; None of others."""
    if not isinstance(encoder, HuggingFaceTextEncoder) or not encoder.frozen:
        return None
    return f'{encoder.pooling} {encoder.max_length} {encoder.precision} {fingerprint(encoder.model.state_dict())}'


def use_feature_cache(cfg: Config, folder: str | Path) -> None:
    """Change a config so that its model starts from the features in a cache.

    The loaders take features in place of images, ``model.cached`` is the stage of the cache, and a hook compares the
    weights of the frozen part with those that filled the cache, before the first step.

    Args:
        cfg: changed in place.
        folder: of ``tools/cache_features.py``.

    Raises:
        FileNotFoundError: when there is no cache.
        ValueError: when the cache is not complete, or was not made with the images steps, views or normalization of
            this config; names what differs.
    """
    cache = FeatureCache(folder)
    cache.captions()  # damaged ones are an error now
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for dataset in datasets_of(loader.dataset):
            steps, views = split_pipeline(dataset.pipeline)
            require_same('image steps', steps, cache.meta['image_steps'], folder)
            pack = dataset.pipeline[-1]
            dataset.pipeline = [dict(type='galr_mm.LoadCachedFeatures', folder=str(folder), views=list(views)), pack]
        # reading a row costs less than handing it over from another process
        loader.update(num_workers=0, persistent_workers=False)
    require_same('data_preprocessor', preprocessor_of(cfg), cache.meta['data_preprocessor'], folder)
    cfg.model.data_preprocessor = dict(PLAIN_PREPROCESSOR)
    cfg.model.cached = cache.meta['stage']
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(HOOK, folder=str(folder))]


def require_same(what: str, ours: object, theirs: object, folder: str | Path) -> None:
    """Raise ValueError where a config and a cache differ."""
    if json.loads(json.dumps(ours)) != theirs:
        raise ValueError(
            f'{folder} was made with other {what}:\n  there {theirs}\n  here  {json.loads(json.dumps(ours))}'
        )


def preprocessor_of(cfg: Config) -> dict[str, Any] | None:
    """What normalizes the images of a config, as plain values; None where the backbone says it."""
    found = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    return None if found is None else plain(found)


def plain(value: Any) -> Any:
    """A part of a config as dicts, lists and scalars."""
    return json.loads(json.dumps(value.to_dict() if hasattr(value, 'to_dict') else value))


def split_pipeline(pipeline: Sequence[Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Steps that make the image, and the views that are drawn of it.

    Raises:
        ValueError: for a pipeline whose images cannot be cached.
    """
    steps = [plain(step) for step in pipeline]
    *steps, pack = steps
    views: tuple[str, ...] = ('identity',)
    if steps and named(steps[-1], RandomD4):
        views = tuple(steps.pop().get('views', VIEWS))
    random = [step['type'] for step in steps if 'Random' in str(step['type'])]
    if random or not steps or not named(pack, PackRetrievalInputs) or named(steps[0], LoadCachedFeatures):
        raise ValueError(
            'features of a pipeline can be cached when it loads and resizes the same way each time, then has '
            f'galr_mm.RandomD4 or nothing, then galr_mm.PackRetrievalInputs; this one has {[s["type"] for s in steps]} '
            f'before {pack["type"]}'
        )
    return steps, views


def named(step: Mapping[str, Any], transform: type) -> bool:
    """Whether a pipeline's step is this transform."""
    return str(step['type']).rpartition('.')[2] == transform.__name__
