"""Images of more than 8 bit that Pillow opened are those of the one loader, or an error."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from galr_mm.apis.encode import _listed, _opened
from galr_mm.imagery import read_image
from galr_mm.imagery.pillow import read_deep

DEEP = (np.random.default_rng(0).random((20, 30, 4)) * 4095).astype(np.uint16)  # 12 bit in 16
KINDS = {
    'rgb.png': DEEP[..., :3],
    'rgba.png': DEEP,
    'gray.png': DEEP[..., 0],
    'rgb.ppm': DEEP[..., :3],
    'rgb.tif': DEEP[..., :3],
    'gray.tif': DEEP[..., 0],
}


def save(folder, name):
    path = folder / name
    assert cv2.imwrite(str(path), KINDS[name])
    return path


@pytest.mark.parametrize('way', ['lazy', 'loaded', 'bytes', 'loaded bytes'])
@pytest.mark.parametrize('name', KINDS)
def test_unchanged(tmp_path, name, way):
    path = save(tmp_path, name)
    if (name, way) == ('rgb.ppm', 'loaded bytes'):
        pytest.skip('of this kind Pillow keeps nothing')
    if name.endswith('tif'):
        pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
    image = Image.open(io.BytesIO(path.read_bytes()) if 'bytes' in way else path)
    if 'loaded' in way:
        image.load()
    (listed,) = _listed(image)
    np.testing.assert_array_equal(_opened(listed), read_image(path))
    assert listed.max() > 200
    image.load()  # where Pillow stood, it stands


@pytest.mark.parametrize('name', ['rgb.png', 'rgb.tif'])
def test_changed(tmp_path, name):
    image = Image.open(save(tmp_path, name))
    image.thumbnail((8, 8))
    with pytest.raises(ValueError, match='image 1, a PIL image, was opened from a file of more than 8 bit.*changed'):
        _listed([Image.new('RGB', (4, 4)), image])


def test_a_file_that_is_gone(tmp_path):
    image = Image.open(save(tmp_path, 'rgb.png'))
    (tmp_path / 'rgb.png').unlink()
    np.testing.assert_array_equal(read_deep(image)[..., 0].shape, (20, 30))  # Pillow still holds it


def test_others_are_not_read_anew(tmp_path):
    for name in ('a.png', 'a.jpg', 'a.tif', 'a.ppm'):
        cv2.imwrite(str(tmp_path / name), (DEEP[..., :3] >> 4).astype(np.uint8))
        image = Image.open(tmp_path / name)
        image.putpixel((0, 0), (1, 2, 3))
        assert read_deep(image) is None
    assert read_deep(Image.new('RGB', (4, 4))) is None
