"""Every kind of file gives the same pixels by every way, or one error that names it."""

import struct
import sys
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from galr_mm.cli.verify_dataset import examine
from galr_mm.datasets.transforms import LoadImageWithProposals, OpenCLIPPreprocess
from galr_mm.imagery import image_size, open_image, pixels, read_image
from galr_mm.imagery.orientation import upright, upright_boxes
from galr_mm.imagery.stretch import SAMPLED, fit_stretch, sample_step
from galr_mm.imagery.tiles import Window
from tests.helpers import TINY_CLIP

RGB = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8), (50, 40))
GRAY = RGB[..., 0].copy()
ALPHA = np.linspace(0, 255, GRAY.size).reshape(GRAY.shape).astype(np.uint8)


def as_pillow(mode):
    """RGB in a mode of Pillow; with alpha where the mode has it."""
    img = Image.fromarray(RGB).convert(mode.removesuffix('A'))
    if mode.endswith('A'):
        img.putalpha(Image.fromarray(ALPHA))
    return img


def pillow(mode, suffix, **options):
    def write(path):
        as_pillow(mode).save(path, **options)

    write.suffix = suffix
    return write


def opencv(values):
    def write(path):
        assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 and values.shape[2] == 3 else values)

    write.suffix = 'png'
    return write


def tiff(values, **options):
    def write(path):
        tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
        tifffile.imwrite(path, values, **options)

    write.suffix = 'tif'
    return write


def stack(count, values=GRAY):
    return np.dstack([values // (n + 1) for n in range(count)])


class Stretched(np.ndarray):
    """Values that are to be stretched."""


def stretched(values):
    return np.asarray(values, np.float64).view(Stretched)


def gray(values):
    return values[..., None].repeat(3, axis=2)


def with_alpha(values):
    return np.dstack([values, ALPHA])


TILES = dict(tile=(16, 16))
BANDS = dict(planarconfig='contig', photometric='minisblack')
COLOR = dict(photometric='rgb')
NO_ALPHA, NO_BANDS = 'alpha left out', 'bands after the third left out'
CONVERTED, NO_PAGES = 'CMYK converted to RGB', 'pages after the first left out'
U16, U32 = 'uint16 values stretched to 8 bit', 'uint32 values stretched to 8 bit'
I16, F32, F64 = (f'{kind} values stretched to 8 bit' for kind in ('int16', 'float32', 'float64'))
OPENCV, PILLOW = 'opencv', 'pillow'
WIDE = GRAY.astype(np.uint16)
# what is written, the RGB pixels that are expected or the decoder that gives them, and what the check says
KINDS = {
    'rgb jpg': (pillow('RGB', 'jpg', quality=90), OPENCV),
    'rgb png': (pillow('RGB', 'png'), RGB),
    'rgb webp': (pillow('RGB', 'webp', lossless=True), RGB),
    'rgb bmp': (pillow('RGB', 'bmp'), RGB),
    'rgb tif': (pillow('RGB', 'tif', compression='tiff_lzw'), RGB),
    'gray png': (pillow('L', 'png'), PILLOW),
    '1 bit png': (pillow('1', 'png'), PILLOW),
    '1 bit tif': (pillow('1', 'tif', compression='group4'), PILLOW),
    'palette png': (pillow('P', 'png'), PILLOW),
    'palette tif': (pillow('P', 'tif'), PILLOW),
    'transparent palette': (pillow('P', 'png', transparency=3), PILLOW, NO_ALPHA),
    'gray and alpha png': (pillow('LA', 'png'), PILLOW, NO_ALPHA),
    'alpha png': (pillow('RGBA', 'png'), RGB, NO_ALPHA),
    'alpha webp': (pillow('RGBA', 'webp', lossless=True, exact=True), RGB, NO_ALPHA),
    'alpha tif': (tiff(with_alpha(RGB), extrasamples=['unassalpha'], **COLOR), RGB, NO_ALPHA),
    'alpha tiles': (tiff(with_alpha(RGB), extrasamples=['assocalpha'], **COLOR, **TILES), RGB, NO_ALPHA),
    'gray and alpha tif': (tiff(with_alpha(GRAY), extrasamples=['unassalpha'], **BANDS), gray(GRAY), NO_ALPHA),
    'two bands': (tiff(stack(2), **BANDS), gray(GRAY), 'the second band left out'),
    'three bands': (tiff(stack(3), **BANDS), stack(3)),
    'four bands': (tiff(stack(4), **BANDS), stack(3), NO_BANDS),
    'five bands': (tiff(stack(5), **BANDS), stack(3), NO_BANDS),
    'five bands in tiles': (tiff(stack(5), **BANDS, **TILES), stack(3), NO_BANDS),
    'planes': (tiff(np.moveaxis(stack(5), 2, 0), **BANDS | dict(planarconfig='separate')), stack(3), NO_BANDS),
    'white is zero': (tiff(GRAY, photometric='miniswhite'), gray(255 - GRAY)),
    '2 bit tif': (tiff(GRAY >> 6, bitspersample=2, photometric='minisblack'), gray(85 * (GRAY >> 6))),
    '4 bit tif': (tiff(GRAY >> 4, bitspersample=4, photometric='minisblack'), gray(17 * (GRAY >> 4))),
    'cmyk tif': (pillow('CMYK', 'tif'), RGB, CONVERTED),
    'cmyk jpg': (pillow('CMYK', 'jpg', quality=95), OPENCV, CONVERTED),
    'pages': (pillow('RGB', 'tif', save_all=True, append_images=[as_pillow('L')]), RGB, NO_PAGES),
    '10 bit': (tiff(RGB.astype(np.uint16) * 4, **COLOR), stretched(RGB), U16),
    '11 bit': (tiff(RGB.astype(np.uint16) * 8, **COLOR, **TILES), stretched(RGB), U16),
    '12 bit packed': (tiff(RGB.astype(np.uint16) * 16, **COLOR, bitspersample=12), stretched(RGB), U16),
    '12 bit png': (opencv(RGB.astype(np.uint16) * 16), stretched(RGB), U16),
    '14 bit gray': (tiff(WIDE * 64, **TILES), stretched(gray(GRAY)), U16),
    '16 bit png': (opencv(RGB.astype(np.uint16) * 257), stretched(RGB), U16),
    'signed': (tiff(GRAY.astype(np.int16) * 9 - 900, **TILES), stretched(gray(GRAY)), I16),
    '32 bit': (tiff(GRAY.astype(np.uint32) * 70000), stretched(gray(GRAY)), U32),
    'float': (tiff(RGB.astype(np.float32) / 255, **COLOR, **TILES), stretched(RGB), F32),
    'double': (tiff(GRAY.astype(np.float64) * 1e-9 + 5), stretched(gray(GRAY)), F64),
    'white is zero, 16 bit': (tiff(60000 - WIDE * 9, photometric='miniswhite'), stretched(gray(GRAY)), U16),
    'thirteen bands': (tiff(stack(13, WIDE * 16), **BANDS, **TILES), stretched(stack(3, WIDE * 16)), NO_BANDS, U16),
}


@pytest.fixture(scope='module')
def clip():
    pytest.importorskip('open_clip', reason='the extra galr_mm[clip]')
    return OpenCLIPPreprocess(TINY_CLIP)


def save(kind, folder):
    path = folder / f'a.{KINDS[kind][0].suffix}'
    KINDS[kind][0](path)
    return path


@pytest.mark.parametrize('kind', KINDS)
def test_one_file_by_every_way(kind, tmp_path):
    path = save(kind, tmp_path)
    _, expected, *changes = KINDS[kind]
    loaded = LoadImageWithProposals()({'img_path': str(path)})['img']
    assert (loaded.shape, loaded.dtype, loaded.flags.c_contiguous) == ((40, 50, 3), np.uint8, True)
    if isinstance(expected, Stretched):
        low, high = np.percentile(expected, [0.5, 99.5])
        expected = ((expected - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(loaded[..., ::-1], expected, atol=0.6)
        assert (loaded.min(), loaded.max()) == (0, 255)
    else:
        expected = mmcv.imread(str(path), channel_order='rgb') if expected is OPENCV else expected
        expected = np.asarray(Image.open(path).convert('RGB')) if expected is PILLOW else expected
        np.testing.assert_array_equal(loaded[..., ::-1], expected)
    assert image_size(path) == (40, 50)
    with open_image(path) as opened:
        tiles = np.zeros_like(loaded)
        for top, left in np.ndindex(3, 3):
            window = Window(17 * left, 14 * top, min(17 * left + 17, 50), min(14 * top + 14, 40))
            tiles[window.top : window.bottom, window.left : window.right] = opened.read(window)
    np.testing.assert_array_equal(tiles, loaded)
    report = examine(str(path))
    assert (report.problem, report.changes) == ('', tuple(changes))


@pytest.mark.parametrize('kind', ['rgb jpg', 'alpha png', 'transparent palette', '1 bit png', 'cmyk jpg', '11 bit'])
def test_clip_resizes_these_pixels(kind, tmp_path, clip):
    path = save(kind, tmp_path)
    of_file = clip({'img_path': str(path)})
    np.testing.assert_array_equal(of_file['img'], clip({'img': read_image(path)})['img'])
    assert of_file['ori_shape'] == (40, 50)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_exif_sets_upright(suffix, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'webp': dict(lossless=True), 'jpg': dict(quality=95)}.get(suffix, {})
    as_pillow('RGB').save(tmp_path / f'plain.{suffix}', **options)
    as_pillow('RGB').save(tmp_path / f'a.{suffix}', exif=exif, **options)
    expected = upright(read_image(tmp_path / f'plain.{suffix}'), orientation)
    np.testing.assert_array_equal(read_image(tmp_path / f'a.{suffix}'), expected)
    assert image_size(tmp_path / f'a.{suffix}') == expected.shape[:2]
    assert examine(str(tmp_path / f'a.{suffix}')).changes == ('rotated by its EXIF data',) * (orientation != 1)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_deep_tiff_is_set_upright_and_boxes_with_it(orientation, tmp_path):
    values = np.zeros((40, 50), np.uint16)
    values[5:15, 30:48] = 2000
    tiff(values, extratags=[(274, 'H', 1, orientation, True)], **TILES)(tmp_path / 'a.tif')
    loaded = read_image(tmp_path / 'a.tif')
    ys, xs = np.nonzero(loaded[..., 0])
    box = upright_boxes(np.array([[30, 5, 48, 15]]), (40, 50), orientation)
    assert box.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    with open_image(tmp_path / 'a.tif') as opened:
        np.testing.assert_array_equal(opened.read(Window(0, 0, opened.width, opened.height)), loaded)


def test_hot_pixels_missing_values_and_nan_do_not_darken(tmp_path):
    values = np.linspace(100, 900, 4000).reshape(50, 80).astype(np.float32)
    expected = fit_stretch(values)(values[..., None])[..., 0]
    spoiled = values.copy()
    spoiled[0, :5], spoiled[1, :5], spoiled[2, :40], spoiled[3, 0] = 1e7, np.nan, -9999, np.inf
    for options in ({}, TILES):
        tiff(spoiled, extratags=[(42113, 's', 0, '-9999', True)], **options)(tmp_path / 'a.tif')
        loaded = read_image(tmp_path / 'a.tif')[..., 0]
        assert not loaded[1, :5].any()
        assert not loaded[2, :40].any()
        np.testing.assert_allclose(loaded[5:].astype(int), expected[5:], atol=8)
    assert fit_stretch(np.array([np.nan]))(np.full((1, 2, 1), np.nan)).tolist() == [[[0], [0]]]
    mask = np.zeros((40, 50, 1), np.uint16)
    mask[0, 0] = 7
    assert fit_stretch(mask)(mask)[0, 0] == 255
    assert not fit_stretch(mask * 0 + 9)(mask * 0 + 9).any()


def test_one_stretch_for_a_scene(tmp_path, monkeypatch):
    """A dark and a bright tile stay so, and what is sampled is the same whole and in tiles."""
    values = np.random.default_rng(0).integers(0, 400, (130, 210), dtype=np.uint16)
    values[:, 100:] += 1500
    for sampled in (SAMPLED, 900):
        monkeypatch.setattr('galr_mm.imagery.stretch.SAMPLED', sampled)
        assert (sample_step(130, 210) > 1) == (sampled == 900)
        tiff(values, tile=(48, 64))(tmp_path / 'a.tif')
        whole = read_image(tmp_path / 'a.tif')
        with open_image(tmp_path / 'a.tif') as opened:
            dark, bright = opened.read(Window(0, 0, 60, 60)), opened.read(Window(110, 60, 170, 120))
        np.testing.assert_array_equal(dark, whole[:60, :60])
        np.testing.assert_array_equal(bright, whole[60:120, 110:170])
        assert dark.max() < 70
        assert bright.min() > 180


@pytest.mark.parametrize('kind', ['deep palette', 'deep cmyk', 'complex', 'volume'])
def test_what_has_no_rule_is_refused(kind, tmp_path):
    options = {
        'deep palette': (WIDE, dict(photometric='palette', colormap=np.zeros((3, 65536), np.uint16))),
        'deep cmyk': (stack(4, WIDE), dict(photometric='separated', planarconfig='contig')),
        'complex': (GRAY.astype(np.complex64), {}),
        'volume': (stack(16).transpose(2, 0, 1), dict(volumetric=True, tile=(16, 16, 16), photometric='minisblack')),
    }
    values, how = options[kind]
    tiff(values, **how)(tmp_path / 'a.tif')
    with pytest.raises(OSError, match=r'a\.tif.*has no rule; accepted: gray or RGB of any depth') as error:
        read_image(tmp_path / 'a.tif')
    assert examine(str(tmp_path / 'a.tif')).problem == str(error.value)


def test_without_tifffile(tmp_path, monkeypatch):
    """Plain files need nothing; the others name the extra, and so does what imagecodecs unpacks."""
    plain, deep = save('rgb tif', tmp_path).rename(tmp_path / 'plain.tif'), save('11 bit', tmp_path)
    packed = tmp_path / 'packed.tif'
    KINDS['12 bit packed'][0](packed)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'imagecodecs', None)
        patch.setattr('tifffile.tifffile.TiffPage.asarray', imagecodecs_is_missing)
        with pytest.raises(ImportError, match=r'packed\.tif: imagecodecs is not installed.*galr_mm\[detect\]'):
            read_image(packed)
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    np.testing.assert_array_equal(read_image(plain)[..., ::-1], RGB)
    for load in (read_image, lambda path: LoadImageWithProposals()({'img_path': str(path)})):
        with pytest.raises(ImportError, match=r'a\.tif: tifffile is not installed.*galr_mm\[detect\]'):
            load(deep)
    with pytest.raises(ImportError, match=r'galr_mm\[detect\]'), open_image(deep):
        pass
    assert 'galr_mm[detect]' in examine(str(deep)).problem


def imagecodecs_is_missing(page):
    """What tifffile says where it has no codec."""
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


def bomb(path, side):
    """A PNG of one bit whose header says side x side; nothing of it is there."""
    head = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    chunks = [(b'IHDR', head), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')]
    body = b''.join(struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + body)
    return path


@pytest.mark.parametrize('way', ['training', 'clip', 'tiles', 'check'])
def test_one_limit_for_large_files(way, tmp_path, request, monkeypatch):
    limit = Image.MAX_IMAGE_PIXELS
    path = bomb(tmp_path / 'scene.png', 40_000)
    assert image_size(path) == (40_000, 40_000)
    message = r'scene\.png.*40000 x 40000 pixels, more than the 1073741824'
    if way == 'check':
        assert '40000 x 40000 pixels' in examine(str(path)).problem
    elif way == 'tiles':
        with pytest.raises(OSError, match=message), open_image(path):
            pass
    else:
        load = request.getfixturevalue('clip') if way == 'clip' else LoadImageWithProposals()
        with pytest.raises(OSError, match=message):
            load({'img_path': str(path)})
    assert limit == Image.MAX_IMAGE_PIXELS


def test_what_pillow_alone_takes_for_a_bomb_is_loaded(tmp_path, monkeypatch, clip):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 999)  # an error from twice as many on
    path = save('rgb png', tmp_path)
    assert (image_size(path), read_image(path).shape) == ((40, 50), (40, 50, 3))
    assert clip({'img_path': str(path)})['ori_shape'] == (40, 50)
    assert examine(str(path)).problem == ''
    monkeypatch.setattr(pixels, 'MAX_PIXELS', 1999)
    with pytest.raises(OSError, match=r'a\.png.*50 x 40 pixels, more than the 1999'):
        read_image(path)


@pytest.mark.parametrize(
    'content', [b'', b'x', b'II*\0', b'II*\0\x08\0\0\0\xff\xff', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'\xff\xd8\xff']
)
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / 'bad.img').write_bytes(content)
    for load in (read_image, image_size):
        with pytest.raises(OSError, match=r'bad\.img'):
            load(tmp_path / 'bad.img')
    assert 'bad.img' in examine(str(tmp_path / 'bad.img')).problem
