from galr_mm.imagery.files import ImageFolder, list_images
from galr_mm.imagery.multiscale import SCALES, multiscale_windows
from galr_mm.imagery.pixels import MAX_PIXELS, read_image
from galr_mm.imagery.scene import Rendering, Scene, SceneReading, is_scene, open_scene
from galr_mm.imagery.tiles import Window, image_size, open_image, windows

__all__ = [
    'MAX_PIXELS',
    'SCALES',
    'ImageFolder',
    'Rendering',
    'Scene',
    'SceneReading',
    'Window',
    'image_size',
    'is_scene',
    'list_images',
    'multiscale_windows',
    'open_image',
    'open_scene',
    'read_image',
    'windows',
]
