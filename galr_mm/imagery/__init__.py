from galr_mm.imagery.files import ImageFolder, list_images
from galr_mm.imagery.multiscale import SCALES, multiscale_windows
from galr_mm.imagery.pixels import MAX_PIXELS, read_image
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = [
    'MAX_PIXELS',
    'SCALES',
    'ImageFolder',
    'Window',
    'image_size',
    'list_images',
    'multiscale_windows',
    'open_image',
    'read_image',
    'windows',
]
