import mmcv
import numpy as np
import pytest

from galr_mm.imagery import tiles
from tests.helpers import ROOT, run_tool

tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')


@pytest.mark.parametrize('height', [1, 99, 100, 101, 180, 181, 400])
@pytest.mark.parametrize('overlap', [0, 20, 99])
def test_windows_cover_the_image_with_their_overlap(height, overlap):
    found = list(tiles.windows(height, 150, 100, overlap))
    seen = np.zeros((height, 150), int)
    for left, top, right, bottom in found:
        assert right - left == 100
        assert bottom - top == min(height, 100)
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    starts = sorted({window.top for window in found})
    assert all(b - a <= 100 - overlap for a, b in zip(starts, starts[1:], strict=False))


def image(kind, size=(130, 210)):
    rng = np.random.default_rng(0)
    shape = {'gray': size, 'alpha': (*size, 4)}.get(kind, (*size, 3))
    if kind == '16 bit':
        return rng.integers(0, 65535, shape, dtype=np.uint16)
    return rng.integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize('kind', ['rgb', 'gray', 'alpha', '16 bit'])
@pytest.mark.parametrize('compression', [None, 'zlib', 'lzw'])
def test_a_tiled_tiff_reads_as_a_decoded_one(tmp_path, kind, compression):
    array = image(kind)
    path, plain = tmp_path / 'tiled.tif', tmp_path / 'plain.tif'
    tifffile.imwrite(path, array, tile=(64, 48), compression=compression)
    tifffile.imwrite(plain, array[..., :3] if kind == 'alpha' else array)  # OpenCV darkens by alpha, in TIFF only
    with tiles.open_image(path) as tiled, tiles.open_image(plain) as decoded:
        assert isinstance(tiled, tiles.TiledTiff)
        assert isinstance(decoded, tiles.DecodedImage)
        assert (tiled.height, tiled.width) == (decoded.height, decoded.width) == (130, 210)
        for window in tiles.windows(130, 210, 50, 10):
            np.testing.assert_allclose(tiled.read(window).astype(int), decoded.read(window), atol=kind == '16 bit')


@pytest.mark.parametrize('kind', ['palette', 'inverted', 'rotated', 'cmyk'])
def test_a_tiff_whose_tiles_are_not_the_image_is_decoded_whole(tmp_path, kind):
    colors = np.random.default_rng(0).integers(0, 65535, (3, 256), np.uint16)
    options = {
        'palette': dict(photometric='palette', colormap=colors),
        'inverted': dict(photometric='miniswhite'),
        'rotated': dict(photometric='rgb', extratags=[(274, 'H', 1, 6, True)]),
        'cmyk': dict(photometric='separated'),
    }[kind]
    array = image({'rotated': 'rgb', 'cmyk': 'alpha'}.get(kind, 'gray'))
    tifffile.imwrite(tmp_path / 'a.tif', array, tile=(64, 48), **options)
    with tiles.open_image(tmp_path / 'a.tif') as opened:
        whole = opened.read(tiles.Window(0, 0, opened.width, opened.height))
    np.testing.assert_array_equal(whole, mmcv.imread(str(tmp_path / 'a.tif')))
    assert kind != 'rotated' or (opened.height, opened.width) == (210, 130)


def test_a_codec_that_is_not_available(tmp_path):
    """tifffile decodes LZW only with imagecodecs, OpenCV without."""
    array = image('rgb')
    tifffile.imwrite(tmp_path / 'a.tif', array, tile=(64, 48), compression='lzw')
    code = """
import sys
sys.modules['imagecodecs'] = None  # its import fails, as where it is not installed
import numpy as np
from galr_mm.imagery import tiles
with tiles.open_image('a.tif') as opened:
    assert isinstance(opened, tiles.DecodedImage), opened
    np.save('a.npy', opened.read(tiles.Window(0, 0, 210, 130)))
"""
    run_tool('-c', code, cwd=tmp_path, env={'PYTHONPATH': str(ROOT)}, fresh=True)
    np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), array[..., ::-1])


def test_only_tiles_under_the_window_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / 'large.tif'
    tifffile.imwrite(path, image('rgb', (640, 640)), tile=(64, 64))
    seen = []

    def noting(data, number, **options):
        seen.append(number)
        return decode(data, number, **options)

    with tiles.open_image(path) as opened:
        decode = opened.page.decode
        monkeypatch.setattr(opened.page, 'decode', noting)
        opened.read(tiles.Window(64, 0, 192, 64))
    assert seen == [1, 2]
