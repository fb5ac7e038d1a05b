from galr_mm.models.retrievers.dual_encoder import DualEncoder
from galr_mm.models.retrievers.galr import GaLR

__all__ = ['DualEncoder', 'GaLR']
