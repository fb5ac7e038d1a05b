from galr_mm.models.clip.backbone import CLIPEmbedding, OpenCLIPBackbone
from galr_mm.models.clip.retriever import OpenCLIPRetriever
from galr_mm.models.clip.text_encoder import OpenCLIPTextEncoder

__all__ = ['CLIPEmbedding', 'OpenCLIPBackbone', 'OpenCLIPRetriever', 'OpenCLIPTextEncoder']
