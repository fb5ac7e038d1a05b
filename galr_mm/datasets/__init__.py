from galr_mm.datasets import transforms
from galr_mm.datasets.image_text import ImageTextDataset
from galr_mm.datasets.vocabulary import Vocabulary

__all__ = ['ImageTextDataset', 'Vocabulary', 'transforms']
