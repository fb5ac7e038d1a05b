from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.datasets.transforms import LoadCachedFeatures
from galr_mm.engine.checks import innermost
from galr_mm.engine.feature_cache import caption_fingerprint, fingerprint, frozen_weights
from galr_mm.models import DualEncoder, HuggingFaceTextEncoder
from galr_mm.registry import HOOKS
from galr_mm.utils.wrappers import unwrapped


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Makes sure that a feature cache was filled by the weights in use and holds all images, before the first step.

    Hands its caption vectors to the model.

    ``--feature-cache`` of the tools adds it.

    Args:
        folder: of ``tools/cache_features.py``.
    """

    def __init__(self, folder: str) -> None:
        self.cache = FeatureCache(folder)
        self.captions = self.cache.captions()

    def before_train(self, runner: Runner) -> None:
        """Compare weights and images before the first step."""
        self._check(runner, [runner.train_loop, runner.val_loop])

    def before_test(self, runner: Runner) -> None:
        """Compare weights and images before the test."""
        self._check(runner, [runner.test_loop])

    def _check(self, runner: Runner, loops: Sequence[Any]) -> None:
        for dataset in (found for loop in loops if loop is not None for found in innermost(loop.dataloader.dataset)):
            (step,) = (step for step in dataset.pipeline.transforms if isinstance(step, LoadCachedFeatures))
            self.cache.require([dataset.get_data_info(i)['file_name'] for i in range(len(dataset))], step.views)
        model = unwrapped(runner.model)
        assert isinstance(model, DualEncoder)
        meta = self.cache.meta
        if model.precision != meta['precision']:
            raise ValueError(
                f'{self.cache.folder} was filled in precision {meta["precision"]!r}, model.precision is '
                f'{model.precision!r}; fill a new one with tools/cache_features.py'
            )
        if fingerprint(frozen_weights(model, meta['stage'])) != meta['weights']:
            raise ValueError(
                f'{self.cache.folder} was filled by a backbone of other weights than this model has; fill a new one '
                'with tools/cache_features.py'
            )
        encoder = model.text_encoder
        if isinstance(encoder, HuggingFaceTextEncoder) and self.captions is not None:
            if caption_fingerprint(encoder) == meta['captions']:
                encoder.known.update(self.captions)
            else:
                print_log(f'{self.cache.folder} holds captions of another text model; those are not used', 'current')
