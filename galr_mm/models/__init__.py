import galr_mm.integrations.checkpoints  # noqa: F401  # the readers of checkpoints, for foreign tools too
from galr_mm.models.clip import CLIPEmbedding, OpenCLIPBackbone, OpenCLIPRetriever, OpenCLIPTextEncoder
from galr_mm.models.detection import ProposalGenerator
from galr_mm.models.fusion import MIDF, ReleasedMIDF
from galr_mm.models.graph import DREA, GCN, LocalBranch, RoINodes
from galr_mm.models.losses import ContrastiveLoss, TripletLoss
from galr_mm.models.retrievers import DualEncoder, GaLR, RetrievalTTAModel
from galr_mm.models.text import BiGRUEncoder, HuggingFaceTextEncoder, SentenceVectorProjection
from galr_mm.models.visual import MVSA, EfficientNetLite, GlobalPool

__all__ = [
    'DREA',
    'GCN',
    'MIDF',
    'MVSA',
    'BiGRUEncoder',
    'CLIPEmbedding',
    'ContrastiveLoss',
    'DualEncoder',
    'EfficientNetLite',
    'GaLR',
    'GlobalPool',
    'HuggingFaceTextEncoder',
    'LocalBranch',
    'OpenCLIPBackbone',
    'OpenCLIPRetriever',
    'OpenCLIPTextEncoder',
    'ProposalGenerator',
    'ReleasedMIDF',
    'RetrievalTTAModel',
    'RoINodes',
    'SentenceVectorProjection',
    'TripletLoss',
]
