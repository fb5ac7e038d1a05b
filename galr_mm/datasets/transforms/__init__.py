from galr_mm.datasets.transforms.formatting import PackRetrievalInputs
from galr_mm.datasets.transforms.geometric import RandomCrop, RandomRotate
from galr_mm.datasets.transforms.loading import LoadPicture

__all__ = ['LoadPicture', 'PackRetrievalInputs', 'RandomCrop', 'RandomRotate']
