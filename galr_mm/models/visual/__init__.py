from galr_mm.models.visual.mvsa import MVSA, GlobalPool, VisualFeatures

__all__ = ['MVSA', 'GlobalPool', 'VisualFeatures']
