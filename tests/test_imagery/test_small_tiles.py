"""TIFFs in tiles that OpenCV does not know or that are cut off, and files that are no images at all."""

import sys

import numpy as np
import pytest

from galr_mm.imagery import Window, open_image, read_image
from galr_mm.imagery.header import read_file_header

RGB = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


def save(path, values, **options):
    tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
    kind = 'rgb' if values.ndim == 3 else 'minisblack'
    tifffile.imwrite(path, values, photometric=kind, **options)
    return path


@pytest.mark.parametrize('tile', [(16, 16), (16, 32)])
@pytest.mark.parametrize('values', [RGB, RGB[..., 0]], ids=['rgb', 'gray'])
def test_small_tiles_of_8_bit(tmp_path, values, tile, monkeypatch):
    path = save(tmp_path / 'a.tif', values, tile=tile)
    assert read_file_header(path).tags.is_plain
    expected = np.dstack([values] * 3) if values.ndim == 2 else values[..., ::-1]
    np.testing.assert_array_equal(read_image(path), expected)
    with open_image(path) as opened:
        np.testing.assert_array_equal(opened.read(Window(5, 7, 45, 33)), expected[7:33, 5:45])
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(ImportError, match=r'a\.tif: tifffile is not installed.*galr_mm\[detect\]'):
        read_image(path)


@pytest.mark.parametrize('depth', ['uint8', 'uint16'])
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('left', [0.5, 0.9])
def test_cut_off(tmp_path, depth, compression, left):
    path = save(tmp_path / 'a.tif', RGB.astype(depth) * (1 if depth == 'uint8' else 200), tile=(16, 16))
    if compression:
        save(path, RGB.astype(depth), tile=(16, 16), compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])

    def read_by_window():
        with open_image(path) as opened:
            opened.read(Window(0, 0, 50, 40))

    for read in (read_by_window, lambda: read_image(path)):
        with pytest.raises(OSError, match=r'cannot read the image .*a\.tif'):
            read()


@pytest.mark.parametrize('name', ['a.jpg', 'a.tif'])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'a pointer of git-lfs'),
        (b'<!DOCTYPE html><html></html>', 'a web page'),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', 'the error of a server'),
        (b'<Error><Code>NoSuchKey</Code></Error>', 'the error of a server'),
    ],
    ids=['pointer', 'page', 'xml', 'error'],
)
def test_no_image(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=rf'cannot read the image .*{name} .*it is {message}'):
        read_image(tmp_path / name)
    with pytest.raises(OSError, match=rf'{name} .*it is {message}'), open_image(tmp_path / name):
        pass
