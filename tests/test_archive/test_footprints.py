"""Footprints at the poles and around the Earth, against dense points of each tile that rasterio transforms."""

import numpy as np
import pytest

from galr_mm.archive import ArchiveIndex, Cut, Where
from galr_mm.archive.footprints import footprint_of_ring, footprints, pixel_size
from galr_mm.imagery import Window
from galr_mm.structures import Place
from tests.geotiff import noise, write
from tests.test_archive.helpers import update

pytestmark = pytest.mark.geo
MIDDLE = (1000, 0, -256_000, 0, -1000, 256_000)  # a pole in the middle of 512 x 512 pixels of a kilometer


def rings_of(footprint):
    parts = footprint.geometry['coordinates']
    return [np.array(ring) for (ring,) in (parts if footprint.geometry['type'] == 'MultiPolygon' else [parts])]


def is_simple(ring):
    """Whether no two edges of a closed ring (n, 2) cross or lie on each other."""
    a, b = ring[:-1], ring[1:]

    def side(p, q, r):
        return np.sign(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    p, q, r, s = a[:, None], b[:, None], a[None], b[None]
    crosses = (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)
    return not crosses.any() and len(np.unique(a, axis=0)) == len(a)


def require_valid(footprint):
    """RFC 7946: closed, counterclockwise, simple, within the degrees that there are, parts apart but at 180."""
    west, south, east, north = footprint.bounds
    rings = rings_of(footprint)
    for ring in rings:
        x, y = ring.T
        assert (ring[0] == ring[-1]).all()
        assert is_simple(ring)
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
        assert np.ptp(x) > 0
        assert np.abs(x).max() <= 180
        assert -90 <= south <= y.min()
        assert y.max() <= north <= 90
    if len(rings) > 1:  # one ends at the antimeridian, the other one begins there
        (first, second) = sorted(rings, key=lambda ring: -ring[:, 0].min())
        assert (first[:, 0].max(), second[:, 0].min()) == (180, -180)
        assert first[:, 0].min() > second[:, 0].max()
        assert (west, east) == (first[:, 0].min(), second[:, 0].max())


def seen(place, window, pole=None, count=97):
    """Bounds of dense points of a window, those at a pole aside, by the widest gap between their longitudes."""
    from rasterio.warp import transform as warp

    left, top, right, bottom = window
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(left, right, count), np.linspace(top, bottom, count)))
    if pole is not None:
        kept = np.hypot(x - pole[0], y - pole[1]) > 1e-6
        x, y = x[kept], y[kept]
    a, b, c, d, e, f = place.transform
    longitude, latitude = map(np.array, warp(place.crs, 'EPSG:4326', a * x + b * y + c, d * x + e * y + f))
    longitude = np.sort((longitude + 180) % 360 - 180)
    gaps = np.diff([*longitude, longitude[0] + 360])
    at = gaps.argmax()
    return longitude[(at + 1) % len(longitude)], latitude.min(), longitude[at], latitude.max()


@pytest.mark.parametrize(
    ('crs', 'window', 'west', 'east'),
    [
        ('EPSG:3413', (0, 0, 256, 256), 135, -135),
        ('EPSG:3413', (256, 0, 512, 256), 45, 135),
        ('EPSG:3413', (0, 256, 256, 512), -135, -45),
        ('EPSG:3413', (256, 256, 512, 512), -45, 45),
        ('EPSG:3413', (0, 0, 256, 512), 135, -45),
        ('EPSG:3413', (128, 0, 384, 256), 45, -135),
        ('EPSG:3413', (0, 0, 512, 512), -180, 180),
        ('EPSG:3413', (200, 150, 300, 300), -180, 180),
        ('EPSG:3031', (0, 0, 256, 256), -90, 0),
        ('EPSG:3031', (0, 256, 256, 512), -180, -90),
        ('EPSG:3031', (256, 256, 512, 512), 90, 180),
        ('EPSG:3031', (0, 256, 512, 512), 90, -90),
        ('EPSG:3031', (0, 0, 512, 512), -180, 180),
        ('EPSG:3575', (256, 0, 512, 256), 100, -170),
    ],
)
def test_a_pole_on_a_corner_on_an_edge_and_inside(crs, window, west, east):
    place, window = Place(crs, MIDDLE), Window(*window)
    (footprint,) = footprints(place, [window])
    require_valid(footprint)
    assert footprint.bounds[::2] == pytest.approx((west, east), abs=1e-6)
    _, south, _, north = seen(place, window, (256, 256))
    expected = (-90, north) if crs == 'EPSG:3031' else (south, 90)
    assert footprint.bounds[1::2] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize('crs', ['EPSG:3413', 'EPSG:3031', 'EPSG:3576', 'EPSG:32633'])
@pytest.mark.parametrize('kind', ['corner', 'edge', 'inside', 'near', 'beside'])
@pytest.mark.parametrize('seed', range(4))
def test_scenes_in_any_direction(crs, kind, seed):
    """Turned, mirrored, of any size of a pixel."""
    from rasterio.warp import transform as warp

    rng = np.random.default_rng(seed)
    ((x,), (y,)) = warp('EPSG:4326', crs, [15.0], [-90.0 if crs == 'EPSG:3031' else 90.0])
    size, turn, flip = 10 ** rng.uniform(1, 2.5), rng.choice([0, rng.uniform(0, 7)]), rng.choice([-1, 1])
    width, height = (int(side) for side in rng.integers(30, 400, 2))
    pole = dict(
        corner=(rng.choice([0, width]), rng.choice([0, height])),
        edge=(rng.choice([0, width]), rng.uniform(1, height - 1)),
        inside=(rng.uniform(1, width - 1), rng.uniform(1, height - 1)),
        near=(width / 96 * rng.integers(96), -rng.uniform(0.1, 3)),
        beside=(rng.uniform(-3, 3) * width, -rng.uniform(0.2, 3) * height),
    )[kind]
    a, d = size * np.cos(turn), size * np.sin(turn)
    b, e = d * flip, -a * flip
    place = Place(crs, (a, b, x - a * pole[0] - b * pole[1], d, e, y - d * pole[0] - e * pole[1]))
    window = Window(0, 0, width, height)
    (footprint,) = footprints(place, [window])
    require_valid(footprint)
    west, south, east, north = seen(place, window, pole)
    if kind in ('corner', 'edge', 'inside'):
        south, north = (-90, north) if crs == 'EPSG:3031' else (south, 90)
    assert footprint.bounds[1::2] == pytest.approx((south, north), abs=size / 111_000)
    if kind == 'inside':
        west, east = -180, 180
    beside = [(found - true + 180) % 360 - 180 for found, true in zip(footprint.bounds[::2], (west, east), strict=True)]
    assert np.abs(beside).max() < 0.2 or kind == 'inside'
    assert kind != 'inside' or footprint.bounds[::2] == (-180, 180)


def test_a_box_at_a_pole_finds_the_tile_that_lies_there(tmp_path):
    write(tmp_path / 'archive/a.tif', noise(3, 512, 512), crs='EPSG:3413', transform=MIDDLE)
    update(tmp_path / 'index', tmp_path / 'archive', cut=Cut(256))
    with ArchiveIndex(tmp_path / 'index') as opened:

        def found(*bbox):
            tiles = opened.catalog.tiles(opened.catalog.rows_where(Where(bbox=bbox)))
            return [tile.window[:2] for tile in tiles.values()]

        assert found(-10, 87, 10, 88) == [(256, 256)]
        assert found(170, 87, -170, 88) == [(0, 0)]
        assert len(found(-180, 89.9, 180, 90)) == 4


@pytest.mark.parametrize(
    ('transform', 'window', 'bounds'),
    [
        ((1, 0, -180, 0, -1, 90), (0, 0, 360, 180), (-180, -90, 180, 90)),
        ((1, 0, -0.5, 0, -1, 90.5), (0, 0, 360, 181), (-180, -90, 180, 90)),
        ((1, 0, -0.5, 0, -1, 90.5), (0, 0, 361, 181), (-180, -90, 180, 90)),
        ((1, 0, -0.5, 0, -1, 90.5), (0, 0, 10, 10), (-0.5, 80.5, 9.5, 90)),
        ((1, 0, -0.5, 0, -1, 90.5), (170, 0, 190, 10), (169.5, 80.5, -170.5, 90)),
        ((360 / 7000, 0, -180, 0, -360 / 7000, 90), (0, 0, 7000, 3500), (-180, -90, 180, 90)),
        ((360 / 7000, 0, -180, 0, -360 / 7000, 90), (6744, 0, 7000, 256), (166.8342857, 76.8342857, 180, 90)),
        ((0.25, 0, 0, 0, -0.25, 90), (464, 0, 720, 256), (116, 26, 180, 90)),
        ((1, 0, 0, 0, -1, 190), (0, 0, 10, 10), None),
        ((1, 0, 0, 0, -1, 90.5), (0, 0, 10, 0), None),
    ],
)
def test_grids_around_the_earth(transform, window, bounds):
    place = Place('EPSG:4326', transform)
    (footprint,) = footprints(place, [Window(*window)])
    assert (footprint and footprint.bounds) == bounds
    if footprint:
        require_valid(footprint)


def test_places_that_mean_nothing_have_no_footprint():
    assert footprints(Place('EPSG:4978', (10, 0, 0, 0, -10, 0)), [Window(0, 0, 256, 256)]) == [None]
    assert footprints(Place('EPSG:3413', MIDDLE), []) == []
    assert footprint_of_ring([[0, 0], [1, 1], [2, 2]]) is None
    assert pixel_size(Place('EPSG:4326', (1, 0, 0, 0, -1, 190)), 100, 100) is None


@pytest.mark.parametrize('start', [-180, -179.5, 0, 90, 179.5])
@pytest.mark.parametrize('step', [-40, 40])
def test_a_ring_around_a_pole_is_one_polygon(start, step):
    for latitude, pole in ((80, 90), (-80, -90)):
        ring = [[(start + step * n + 180) % 360 - 180, latitude + n % 2] for n in range(9)]
        footprint = footprint_of_ring(ring)
        require_valid(footprint)
        assert footprint.geometry['type'] == 'Polygon'
        assert footprint.bounds == (-180, min(latitude, pole), 180, max(latitude + 1, pole))


def test_tiles_beyond_the_disk_of_the_earth_do_not_take_the_place_of_others(tmp_path):
    """A geostationary view: its corners are space, and one of them made PROJ refuse all."""
    disk = dict(crs='+proj=geos +h=35785831 +lon_0=0 +datum=WGS84', transform=(50_000, 0, -5.6e6, 0, -50_000, 5.6e6))
    place, middle, corner = Place(*disk.values()), Window(96, 96, 128, 128), Window(0, 0, 32, 32)
    found, space = footprints(place, [middle, corner])
    assert space is None
    require_valid(found)
    np.testing.assert_allclose(found.bounds, (-7.5, -7.5, 7.5, 7.5), atol=0.5)
    assert pixel_size(place, 9, 9) is None
    write(tmp_path / 'archive/a.tif', noise(3, 224, 224), **disk)
    assert update(tmp_path / 'index', tmp_path / 'archive', cut=Cut(32)).unplaced == 1
    with ArchiveIndex(tmp_path / 'index') as opened:
        counts = opened.catalog.counts()
        assert 0 < counts['placed'] < counts['tiles'] == 49
