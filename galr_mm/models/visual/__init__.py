from galr_mm.models.visual.features import BackboneFeatures, EmbeddingBackbone, VisualFeatures
from galr_mm.models.visual.mvsa import MVSA, GlobalPool

__all__ = ['MVSA', 'BackboneFeatures', 'EmbeddingBackbone', 'GlobalPool', 'VisualFeatures']
