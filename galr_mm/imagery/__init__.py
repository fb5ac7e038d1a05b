from galr_mm.imagery.files import ImageFolder, list_images
from galr_mm.imagery.pixels import MAX_PIXELS, read_image
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = [
    'MAX_PIXELS',
    'ImageFolder',
    'Window',
    'image_size',
    'list_images',
    'open_image',
    'read_image',
    'windows',
]
