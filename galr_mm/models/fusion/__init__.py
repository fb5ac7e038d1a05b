from galr_mm.models.fusion.midf import MIDF
from galr_mm.models.fusion.released_midf import ReleasedMIDF

__all__ = ['MIDF', 'ReleasedMIDF']
