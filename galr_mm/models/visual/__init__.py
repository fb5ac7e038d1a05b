from galr_mm.models.visual.efficientnet_lite import EfficientNetLite
from galr_mm.models.visual.features import BackboneFeatures, EmbeddingBackbone, VisualFeatures
from galr_mm.models.visual.mvsa import MVSA, GlobalPool
from galr_mm.models.visual.staged import StagedBackbone

__all__ = [
    'MVSA',
    'BackboneFeatures',
    'EfficientNetLite',
    'EmbeddingBackbone',
    'GlobalPool',
    'StagedBackbone',
    'VisualFeatures',
]
