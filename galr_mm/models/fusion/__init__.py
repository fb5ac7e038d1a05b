from galr_mm.models.fusion.midf import MIDF

__all__ = ['MIDF']
