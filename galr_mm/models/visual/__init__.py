from galr_mm.models.visual.mvsa import MVSA, GlobalPool, VisualFeatures
from galr_mm.models.visual.open_clip import CLIPEmbedding, OpenCLIPBackbone

__all__ = ['MVSA', 'CLIPEmbedding', 'GlobalPool', 'OpenCLIPBackbone', 'VisualFeatures']
