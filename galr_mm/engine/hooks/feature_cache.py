from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.engine.feature_cache import caption_fingerprint, fingerprint, frozen_weights
from galr_mm.models import DualEncoder, HuggingFaceTextEncoder
from galr_mm.registry import HOOKS
from galr_mm.utils.wrappers import unwrapped


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Makes sure that a feature cache was filled by the weights in use, and hands its caption vectors to the model.

    ``--feature-cache`` of the tools adds it.

    Args:
        folder: of ``tools/cache_features.py``.
    """

    def __init__(self, folder: str) -> None:
        self.cache = FeatureCache(folder)

    def before_train(self, runner: Runner) -> None:
        """Compare weights before the first step."""
        self._check(runner)

    def before_test(self, runner: Runner) -> None:
        """Compare weights before the test."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        assert isinstance(model, DualEncoder)
        meta = self.cache.meta
        if fingerprint(frozen_weights(model, meta['stage'])) != meta['weights']:
            raise ValueError(
                f'{self.cache.folder} was filled by a backbone of other weights than this model has; fill a new one '
                'with tools/cache_features.py'
            )
        captions, encoder = self.cache.captions(), model.text_encoder
        if isinstance(encoder, HuggingFaceTextEncoder) and captions is not None:
            if caption_fingerprint(encoder) == meta['captions']:
                encoder.known.update(captions)
            else:
                print_log(f'{self.cache.folder} holds captions of another text model; those are not used', 'current')
