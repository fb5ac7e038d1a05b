from galr_mm.apis.archive import ArchiveIndexer, ArchiveSearcher
from galr_mm.apis.encode import encode_images, encode_texts
from galr_mm.apis.hub import get_model, list_models, pretrained_models
from galr_mm.apis.inferencer import Match, RetrievalInferencer
from galr_mm.apis.localize import SceneLocalizer
from galr_mm.apis.model import init_model

__all__ = [
    'ArchiveIndexer',
    'ArchiveSearcher',
    'Match',
    'RetrievalInferencer',
    'SceneLocalizer',
    'encode_images',
    'encode_texts',
    'get_model',
    'init_model',
    'list_models',
    'pretrained_models',
]
