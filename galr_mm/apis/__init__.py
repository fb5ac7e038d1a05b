from galr_mm.apis.encode import encode_images
from galr_mm.apis.hub import get_model, list_models
from galr_mm.apis.model import init_model

__all__ = ['encode_images', 'get_model', 'init_model', 'list_models']
