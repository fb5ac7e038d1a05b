from galr_mm.models.fusion import MIDF
from galr_mm.models.graph import DREA, GCN, RoINodes
from galr_mm.models.losses import ContrastiveLoss, TripletLoss
from galr_mm.models.retrievers import DualEncoder, GaLR
from galr_mm.models.text import BiGRUEncoder, SentenceVectorProjection
from galr_mm.models.visual import MVSA, GlobalPool
from galr_mm.proposals.generator import ProposalGenerator

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
    'ProposalGenerator',
    'RoINodes',
    'SentenceVectorProjection',
    'TripletLoss',
]
