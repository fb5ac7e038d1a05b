from galr_mm.datasets.transforms.formatting import PackRetrievalInputs
from galr_mm.datasets.transforms.geometric import RandomCrop, RandomRotate
from galr_mm.datasets.transforms.loading import LoadPicture
from galr_mm.datasets.transforms.open_clip import OpenCLIPPreprocess

__all__ = ['LoadPicture', 'OpenCLIPPreprocess', 'PackRetrievalInputs', 'RandomCrop', 'RandomRotate']
