"""galr_mm: remote-sensing image-text retrieval (GaLR) for the OpenMMLab ecosystem.

Importing the package is light: torch-geometric, mmdet and open_clip are imported where they are used.
"""

from galr_mm.version import __version__

__all__ = ['__version__']
