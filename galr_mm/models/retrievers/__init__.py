from galr_mm.models.retrievers.dual_encoder import DualEncoder
from galr_mm.models.retrievers.galr import GaLR
from galr_mm.models.retrievers.tta import RetrievalTTAModel

__all__ = ['DualEncoder', 'GaLR', 'RetrievalTTAModel']
