from galr_mm.imagery.files import list_images
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = ['Window', 'image_size', 'list_images', 'open_image', 'windows']
