from galr_mm.imagery.files import ImageFolder, list_images
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = ['ImageFolder', 'Window', 'image_size', 'list_images', 'open_image', 'windows']
