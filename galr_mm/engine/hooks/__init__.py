from galr_mm.engine.hooks.caption_report import CaptionReportHook
from galr_mm.engine.hooks.checkpoint import ResumableCheckpointHook
from galr_mm.engine.hooks.feature_cache import FeatureCacheHook
from galr_mm.engine.hooks.first_steps import FirstStepsHook
from galr_mm.engine.hooks.ranked_hits import RankedHitsHook
from galr_mm.engine.hooks.rerank import RerankHook

__all__ = [
    'CaptionReportHook',
    'FeatureCacheHook',
    'FirstStepsHook',
    'RankedHitsHook',
    'RerankHook',
    'ResumableCheckpointHook',
]
