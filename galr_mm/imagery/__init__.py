from galr_mm.imagery.files import list_images
from galr_mm.imagery.multiscale import SCALES, multiscale_windows
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = ['SCALES', 'Window', 'image_size', 'list_images', 'multiscale_windows', 'open_image', 'windows']
