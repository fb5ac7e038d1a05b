from galr_mm.models.fusion import MIDF
from galr_mm.models.graph import DREA, GCN, RoINodes
from galr_mm.models.losses import ContrastiveLoss, TripletLoss
from galr_mm.models.retrievers import DualEncoder, GaLR, OpenCLIPRetriever
from galr_mm.models.text import BiGRUEncoder, HuggingFaceTextEncoder, OpenCLIPTextEncoder, SentenceVectorProjection
from galr_mm.models.visual import MVSA, CLIPEmbedding, GlobalPool, OpenCLIPBackbone
from galr_mm.proposals.generator import ProposalGenerator

__all__ = [
    'DREA',
    'GCN',
    'MIDF',
    'MVSA',
    'BiGRUEncoder',
    'CLIPEmbedding',
    'ContrastiveLoss',
    'DualEncoder',
    'GaLR',
    'GlobalPool',
    'HuggingFaceTextEncoder',
    'OpenCLIPBackbone',
    'OpenCLIPRetriever',
    'OpenCLIPTextEncoder',
    'ProposalGenerator',
    'RoINodes',
    'SentenceVectorProjection',
    'TripletLoss',
]
