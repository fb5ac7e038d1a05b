from galr_mm.datasets.transforms.clip import OpenCLIPPreprocess
from galr_mm.datasets.transforms.formatting import PackRetrievalInputs
from galr_mm.datasets.transforms.geometric import RandomCrop, RandomRotate
from galr_mm.datasets.transforms.loading import LoadImageWithProposals

__all__ = ['LoadImageWithProposals', 'OpenCLIPPreprocess', 'PackRetrievalInputs', 'RandomCrop', 'RandomRotate']
