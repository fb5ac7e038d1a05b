from galr_mm.engine.hooks.ranked_hits import RankedHitsHook
from galr_mm.engine.hooks.rerank import RerankHook

__all__ = ['RankedHitsHook', 'RerankHook']
