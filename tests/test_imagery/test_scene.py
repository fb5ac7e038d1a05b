"""Scenes: bands and stretch by rule, missing data is black, nothing but the file itself is opened."""

import http.server
import os
import threading

import numpy as np
import pytest

from galr_mm.imagery import Scene, SceneReading, Window, is_scene, open_scene, read_image
from galr_mm.integrations import gdal
from galr_mm.integrations.gdal import open_raster, to_degrees
from tests.geotiff import NORTH, noise, write

pytestmark = pytest.mark.geo
ALL = Window(0, 0, 70, 50)


def stretched(band, low, high):
    return (np.clip((band.astype(float) - low) / (high - low), 0, 1) * 255).round()


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'float32', 'int32'])
def test_each_band_of_a_scene_has_its_own_stretch(tmp_path, dtype):
    values = noise(3, 50, 70, dtype) * np.array([1, 2, 5], dtype)[:, None, None]
    scene = Scene(write(tmp_path / 'a.tif', values, **NORTH))
    pixels = scene.read(ALL)
    assert scene.rendering.bands == (1, 2, 3)
    for band, numbers, channel in zip(values, scene.rendering.stretch, (2, 1, 0), strict=True):
        np.testing.assert_allclose(numbers, np.percentile(band, [2, 98]), rtol=1e-6)
        np.testing.assert_allclose(pixels[..., channel], stretched(band, *numbers), atol=1)
    part = Window(10, 20, 41, 50)
    np.testing.assert_array_equal(scene.read(part), pixels[20:50, 10:41])
    again = Scene(tmp_path / 'a.tif', rendering=scene.rendering)
    np.testing.assert_array_equal(again.read(part), scene.read(part))


def test_8_bit_stays(tmp_path):
    values = noise(3, 50, 70, 'uint8', high=255)
    for options in (dict(), dict(photometric='rgb')):
        scene = Scene(write(tmp_path / 'a.tif', values, **NORTH, **options), SceneReading(scale=(0, 100)))
        np.testing.assert_array_equal(scene.read(ALL), values[::-1].transpose(1, 2, 0))
        assert scene.rendering.stretch is None


def test_a_scale_for_all_scenes(tmp_path):
    values = noise(3, 50, 70)
    scene = Scene(write(tmp_path / 'a.tif', values, **NORTH), SceneReading(scale=(100, 2000)))
    assert scene.rendering.stretch == ((100, 2000),) * 3
    np.testing.assert_allclose(scene.read(ALL)[..., 2], stretched(values[0], 100, 2000), atol=1)


def test_which_bands_are_colors(tmp_path):
    values = noise(4, 50, 70)
    as_said = write(tmp_path / 'said.tif', values, **NORTH, colors=['blue', 'green', 'red', 'undefined'])
    assert Scene(as_said).bands == (3, 2, 1)
    assert Scene(as_said, SceneReading(bands=(4, 3, 2))).bands == (4, 3, 2)
    assert Scene(write(tmp_path / 'not.tif', values, **NORTH, photometric='minisblack')).bands == (1, 2, 3)
    gray = Scene(write(tmp_path / 'two.tif', values[:2], **NORTH))
    assert gray.bands == (1,)
    pixels = gray.read(ALL)
    assert (pixels == pixels[..., :1]).all()
    with pytest.raises(OSError, match=r'said\.tif .*has 4 bands, asked for 5,3,2'):
        Scene(as_said, SceneReading(bands=(5, 3, 2)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        *((dict(bands=bands), 'expected one or three whole numbers, counted') for bands in ((1, 2), (0, 1, 2), ())),
        (dict(scale=(5, 5)), r'scale is \[5, 5\]'),
        (dict(scale=(1,)), r'scale is \[1\], expected two numbers'),
        (dict(scale=(0, 500, 3000)), r'scale is \[0, 500, 3000\], expected two numbers'),
        (dict(scale=(0, True)), 'expected two numbers'),
        (dict(scale='05'), "scale is '05', expected two numbers"),
        (dict(scale=5), 'scale is 5, expected two numbers'),
        (dict(bands=(1.5, 2, 3)), r'bands are \[1.5, 2, 3\], expected one or three whole numbers'),
        (dict(bands=('1',)), 'expected one or three whole numbers'),
        (dict(bands=3), 'bands are 3, expected one or three whole numbers'),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        SceneReading(**options)


@pytest.mark.parametrize(
    'options',
    [{}, dict(bands=(1,)), dict(bands=(4, 3, 2), scale=(0.0, 1234.5678)), dict(scale=(-1e-9, 3e8))],
    ids=str,
)
def test_a_reading_is_read_from_its_text(options):
    reading = SceneReading(**options)
    assert SceneReading.of(f'64 pixels, overlap 16, valid 0.3, {reading}') == reading
    with pytest.raises(ValueError, match="how scenes are read is written as 'whole images, scale 0,x'"):
        SceneReading.of('whole images, scale 0,x')


def test_missing_data_is_black_and_has_no_part_in_the_stretch(tmp_path):
    values = noise(3, 50, 70)
    values[:, :, :35] = 65535
    scene = Scene(write(tmp_path / 'a.tif', values, **NORTH, nodata=65535))
    pixels, valid = scene.read_valid(ALL)
    assert valid == 0.5
    assert not pixels[:, :35].any()
    assert pixels[:, 35:].any(axis=2).mean() > 0.9
    assert max(high for _, high in scene.rendering.stretch) < 3000
    floats = noise(1, 50, 70, 'float32')
    floats[:, :10] = np.nan
    floats[:, 10] = np.inf
    assert Scene(write(tmp_path / 'b.tif', floats, **NORTH)).read_valid(ALL)[1] == pytest.approx(39 / 50)
    masked = noise(4, 50, 70, 'uint8', high=255)
    masked[3] = 0
    masked[3, :5] = 255
    alpha = write(tmp_path / 'c.tif', masked, **NORTH, colors=['red', 'green', 'blue', 'alpha'])
    assert Scene(alpha).read_valid(ALL)[1] == 0.1


def test_palettes_and_white_that_is_zero(tmp_path):
    import rasterio

    path = write(tmp_path / 'p.tif', noise(1, 50, 70, 'uint8', high=3), **NORTH, photometric='palette')
    with rasterio.open(path, 'r+') as file:
        file.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 0, 250, 255)})
        values = file.read(1)
    pixels = Scene(path).read(ALL)
    assert (pixels[values == 1] == [0, 0, 255]).all()
    assert (pixels[values == 2] == [250, 0, 0]).all()
    gray = noise(1, 50, 70, 'uint8', high=255)
    inverted = Scene(write(tmp_path / 'w.tif', gray, **NORTH, photometric='miniswhite'))
    np.testing.assert_array_equal(inverted.read(ALL)[..., 0], 255 - gray[0])


def test_the_stretch_of_a_large_scene_is_that_of_its_overview(tmp_path, monkeypatch):
    monkeypatch.setattr('galr_mm.imagery.scene.sample_step', lambda height, width: 4)
    values = noise(3, 400, 300)
    path = write(tmp_path / 'a.tif', values, **NORTH)
    for (low, high), band in zip(Scene(path).rendering.stretch, values, strict=True):
        assert abs(low - np.percentile(band, 2)) < 20
        assert abs(high - np.percentile(band, 98)) < 20


def test_what_is_a_scene(tmp_path):
    plain = noise(3, 50, 70, 'uint8', high=255)
    deep = write(tmp_path / 'deep.tif', noise(3, 50, 70))
    placed, image = write(tmp_path / 'placed.tif', plain, **NORTH), write(tmp_path / 'image.tif', plain)
    assert [is_scene(path) for path in (deep, placed, image)] == [True, True, False]
    with open_scene(image) as opened:
        np.testing.assert_array_equal(opened.read(ALL), read_image(image))


VRT = """<VRTDataset rasterXSize="70" rasterYSize="50"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
</VRTDataset>"""


def test_a_vrt_is_opened_when_asked_for(tmp_path):
    target = write(tmp_path / 'a.tif', noise(1, 50, 70, 'uint8', high=255), **NORTH)
    vrt = tmp_path / 'b.tif'
    vrt.write_text(VRT.format(target))
    with pytest.raises(ValueError, match=r'b\.tif is a VRT, which names other files'):
        is_scene(vrt)
    with pytest.raises(OSError, match='not recognized'):
        open_raster(vrt)
    assert Scene(vrt, SceneReading(trusted=True)).read(ALL).any()


@pytest.mark.parametrize('name', ['/vsimem/a.tif', '/vsizip/{}/a.zip/a.tif', 'http://localhost/a.tif', 'nowhere.tif'])
def test_only_local_files(tmp_path, name):
    with pytest.raises(OSError, match='no file at .*a?\\.tif; VRT files, /vsi paths and addresses'):
        open_raster(name.format(tmp_path))


@pytest.fixture
def server():
    """Address of a server on this machine, and the paths it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}', asked
        running.shutdown()


def test_no_file_and_no_variable_opens_the_network(tmp_path, server, monkeypatch):
    address, asked = server
    values = noise(3, 50, 70)
    pointing = write(
        tmp_path / 'a.tif', values, **NORTH, domains=dict(OVERVIEWS=dict(OVERVIEW_FILE=f'/vsicurl/{address}/x.tif'))
    )
    with pytest.raises(OSError, match=r'a\.tif says that its overviews are in .*/x\.tif'):
        Scene(pointing)
    beside = write(tmp_path / 'b.tif', values, **NORTH)
    (tmp_path / 'b.tif.ovr').write_text(VRT.format(f'/vsicurl/{address}/y.tif'))
    (tmp_path / 'b.tif.aux.xml').write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/{address}/z.tif</MDI></Metadata>'
        '</PAMDataset>'
    )
    monkeypatch.setenv('PROJ_NETWORK', 'ON')
    monkeypatch.setenv('PROJ_NETWORK_ENDPOINT', address)
    monkeypatch.setenv('GDAL_PAM_ENABLED', 'YES')
    scene = Scene(beside)
    assert scene.read(ALL).any()
    assert not scene.dataset.overviews(1)
    to_degrees('EPSG:4267', [-100.0], [40.0])  # a datum that PROJ has a grid for elsewhere
    assert os.environ['PROJ_NETWORK'] == 'ON'
    assert asked == []


def test_damaged_files_are_named(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.tif', noise(3, 500, 700), **NORTH)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r'cannot read the image .*a\.tif'):
        Scene(path).read(Window(0, 0, 700, 500))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=r'cannot read the image .*a\.tif'):
        Scene(path).read(Window(0, 0, 700, 500))
    monkeypatch.setattr(gdal, 'MAX_BLOCK', 100)
    whole = write(tmp_path / 'b.tif', noise(3, 50, 70), **NORTH, tiled=False)
    with pytest.raises(OSError, match='stored in blocks of 70 x .* pixels, .* bytes, of which at most 100'):
        Scene(whole)


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr('galr_mm.imagery.scene.MAX_SCENE', 3000)
    with pytest.raises(OSError, match='70 x 50 pixels, more than 3000'):
        Scene(write(tmp_path / 'a.tif', noise(3, 50, 70), **NORTH))


def test_names_that_are_not_utf_8(tmp_path):
    path = write(tmp_path / 'a.tif', noise(3, 50, 70), **NORTH)
    odd = os.fsencode(tmp_path) + b'/gr\xe9.tif'
    os.rename(path, odd)
    assert Scene(os.fsdecode(odd)).read(ALL).any()
