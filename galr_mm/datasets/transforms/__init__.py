from galr_mm.datasets.transforms.cached import LoadCachedFeatures
from galr_mm.datasets.transforms.clip import OpenCLIPPreprocess
from galr_mm.datasets.transforms.formatting import PackRetrievalInputs
from galr_mm.datasets.transforms.geometric import RandomCrop, RandomRotate
from galr_mm.datasets.transforms.loading import LoadImageWithProposals
from galr_mm.datasets.transforms.symmetries import RandomD4

__all__ = [
    'LoadCachedFeatures',
    'LoadImageWithProposals',
    'OpenCLIPPreprocess',
    'PackRetrievalInputs',
    'RandomCrop',
    'RandomD4',
    'RandomRotate',
]
