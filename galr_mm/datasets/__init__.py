from galr_mm.datasets import transforms
from galr_mm.datasets.image_text import ImageTextDataset

__all__ = ['ImageTextDataset', 'transforms']
