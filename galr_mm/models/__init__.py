from galr_mm.models.fusion import MIDF
from galr_mm.models.graph import DREA, GCN
from galr_mm.models.losses import ContrastiveLoss, TripletLoss
from galr_mm.models.retrievers import DualEncoder, GaLR
from galr_mm.models.text import BiGRUEncoder, SentenceVectorProjection
from galr_mm.models.visual import MVSA, GlobalPool

__all__ = [
    'DREA',
    'GCN',
    'MIDF',
    'MVSA',
    'BiGRUEncoder',
    'ContrastiveLoss',
    'DualEncoder',
    'GaLR',
    'GlobalPool',
    'SentenceVectorProjection',
    'TripletLoss',
]
