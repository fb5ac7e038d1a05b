from galr_mm.apis.encode import encode_pictures
from galr_mm.apis.model import init_model

__all__ = ['encode_pictures', 'init_model']
