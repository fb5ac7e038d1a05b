"""Scenes in an archive: where their tiles are, what is left out, what is known of them, and that no fault loses any."""

import json
import math
import os
import random
import shutil
import time

import numpy as np
import pytest

from galr_mm.archive import ArchiveIndex, Cut, Description, Where, check_index
from galr_mm.archive import changes as changes_module
from galr_mm.archive.export import thumbnail
from galr_mm.archive.footprints import footprint_of_ring, footprints, pixel_size
from galr_mm.archive.sidecars import compiled, description_of
from galr_mm.imagery import SceneReading, Window
from galr_mm.structures import Place
from tests.geotiff import NORTH, noise, write
from tests.test_archive.helpers import Encoder, content, find, reading, update, vector
from tests.test_archive.test_store import killed

pytestmark = pytest.mark.geo
TILES = Cut(32, 0)
SOUTH = dict(crs='EPSG:32733', transform=(10, 0, 500_000, 0, -10, 8_000_000))
DEGREES = dict(crs='EPSG:4326', transform=(0.001, 0, 10, 0, -0.001, 50))
ROTATED = dict(crs='EPSG:32633', transform=(7, 7, 500_000, 7, -7, 5_000_000))
UPSIDE_DOWN = dict(crs='EPSG:32633', transform=(10, 0, 500_000, 0, 10, 5_000_000))


def hits_of(index, where=None):
    with ArchiveIndex(index) as opened, opened.snapshot():
        rows = opened.catalog.rows_where(where or Where())
    return sorted(find(index, vector(0), k=max(1, len(rows)), where=where), key=lambda hit: hit.tile_id)


def corners(window, crs, transform):
    """What rasterio itself says of the corners of a window, from upper left, counterclockwise where north is up."""
    from rasterio.warp import transform as warp

    left, top, right, bottom = window
    a, b, c, d, e, f = transform
    points = [(a * x + b * y + c, d * x + e * y + f) for x, y in
              [(left, top), (left, bottom), (right, bottom), (right, top)]]  # fmt: skip
    return np.array(warp(crs, 'EPSG:4326', *zip(*points, strict=True))).T


@pytest.mark.parametrize(
    'place', [NORTH, SOUTH, DEGREES, ROTATED, UPSIDE_DOWN], ids=['north', 'south', 'degrees', 'rotated', 'upside down']
)
def test_tiles_lie_where_rasterio_says(tmp_path, place):
    write(tmp_path / 'archive/a.tif', noise(3, 70, 100), **place)
    report = update(tmp_path / 'index', tmp_path / 'archive', cut=TILES)
    assert (report.tiles, report.unplaced) == (12, 0)
    for hit in hits_of(tmp_path / 'index'):
        (ring,) = hit.footprint['coordinates']
        expected = corners(hit.window, **place)
        found = np.array(ring[:-1])
        assert ring[0] == ring[-1]
        assert len(found) == 4
        if place is UPSIDE_DOWN:
            found = found[::-1]
        start = np.abs(found - expected[0]).sum(axis=1).argmin()
        np.testing.assert_allclose(np.roll(found, -start, axis=0), expected, atol=1e-7)
        x, y = np.array(ring).T
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0  # counterclockwise
    with reading(tmp_path / 'index') as (opened, _):
        for *bounds, text in opened.catalog.db.execute('SELECT west, south, east, north, footprint FROM tile'):
            x, y = np.array(json.loads(text)['coordinates'][0]).T
            assert bounds == [x.min(), y.min(), x.max(), y.max()]


def test_utm_by_hand():
    """On the central meridian of zone 33 an easting of 500 km is 15 degrees; the equator is at 0 or at 10,000 km."""
    north = footprints(Place('EPSG:32633', (10, 0, 500_000, 0, -10, 100)), [Window(0, 0, 10, 10)])[0]
    south = footprints(Place('EPSG:32733', (10, 0, 500_000, 0, -10, 10_000_000)), [Window(0, 0, 10, 10)])[0]
    x = 100 / 0.9996 / 6_378_137 * 180 / np.pi  # degrees of 100 m along the equator, by the scale on the meridian
    y = x / (1 - 0.00669438)  # and along the meridian, which is bent more there
    np.testing.assert_allclose(north.bounds, (15, 0, 15 + x, y), atol=2e-7)
    np.testing.assert_allclose(south.bounds, (15, -y, 15 + x, 0), atol=2e-7)


def test_across_the_antimeridian(tmp_path):
    archive = tmp_path / 'archive'
    write(archive / 'a.tif', noise(3, 40, 100), crs='EPSG:4326', transform=(0.01, 0, 179.5, 0, -0.01, 0.2))
    write(archive / 'fiji.tif', noise(3, 40, 40), crs='EPSG:32701', transform=(1000, 0, 173_500, 0, -1000, 8_000_000))
    update(tmp_path / 'index', archive, cut=Cut())
    first, fiji = hits_of(tmp_path / 'index')
    east, west = first.footprint['coordinates']
    assert {tuple(point) for point in east[0]} == {(179.5, 0.2), (179.5, -0.2), (180, -0.2), (180, 0.2)}
    assert {tuple(point) for point in west[0]} == {(-180, 0.2), (-180, -0.2), (-179.5, -0.2), (-179.5, 0.2)}
    assert fiji.footprint['type'] == 'MultiPolygon'
    for hit in (first, fiji):
        for (ring,) in hit.footprint['coordinates']:
            x, y = np.array(ring).T
            assert ring[0] == ring[-1]
            assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
            assert x.max() - x.min() < 1
            assert max(abs(x)) == 180
    for bbox, names in (
        ((179.7, 0, 179.8, 1), 'a'),
        ((-179.6, 0, -179.55, 1), 'a'),
        ((179.95, -19, -179.95, 1), 'af'),
        ((-179.9, -18.2, -179.8, -18.1), 'f'),
        ((0, -90, 170, 90), ''),
    ):
        found = hits_of(tmp_path / 'index', Where(bbox=bbox))
        assert ''.join(os.path.basename(hit.path)[0] for hit in found) == names


def test_long_edges_get_points_and_a_pole_is_inside():
    place = Place('EPSG:32633', (10, 0, 400_000, 0, -10, 7_000_000))
    whole = Window(0, 0, 10_980, 10_980)
    (ring,) = footprints(place, [whole])[0].geometry['coordinates']
    assert len(ring) > 5
    middle = np.array([whole.right / 2, 0])  # of the upper edge: the polygon passes it closer than a pixel
    true = corners(Window(int(middle[0]), 0, int(middle[0]) + 1, 1), place.crs, place.transform)[0]
    inside = [p for p in ring if abs(p[0] - true[0]) < 0.3 and p[1] > true[1] - 0.1]
    x, y = np.array(sorted(inside)).T
    assert abs(np.interp(true[0], x, y) - true[1]) * 111_000 < 10
    (ring,) = footprints(place, [Window(0, 0, 256, 256)])[0].geometry['coordinates']
    assert len(ring) == 5
    polar = footprints(Place('EPSG:3413', (1000, 0, -500_000, 0, -1000, 500_000)), [Window(0, 0, 1000, 1000)])[0]
    assert (polar.bounds[0], polar.bounds[2], polar.bounds[3]) == (-180, 180, 90)
    globe = footprints(Place('EPSG:4326', (1, 0, -180, 0, -1, 90)), [Window(0, 0, 360, 180)])[0]
    assert globe.bounds == (-180, -90, 180, 90)


@pytest.mark.parametrize('seed', range(20))
def test_rings_keep_their_area_across_the_antimeridian(seed):
    rng = np.random.default_rng(seed)
    middle, turn = rng.uniform(179, 181), rng.uniform(0, 7)
    angles = turn + np.sort(rng.uniform(0, 2 * np.pi, 6))[:: rng.choice([-1, 1])]
    ring = np.column_stack([middle + 2 * np.cos(angles), 10 + np.sin(angles)])
    shifted = np.column_stack([(ring[:, 0] + 180) % 360 - 180, ring[:, 1]])
    footprint = footprint_of_ring(shifted.tolist())
    polygons = footprint.geometry['coordinates']
    polygons = polygons if footprint.geometry['type'] == 'MultiPolygon' else [polygons]

    def area(points):
        x, y = np.array(points).T
        return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2

    areas = [area(ring[:-1]) for (ring,) in polygons]
    assert min(areas) > 0
    assert sum(areas) == pytest.approx(abs(area(ring)), abs=1e-5)


def test_scenes_without_a_place_are_indexed_and_counted(tmp_path):
    archive = tmp_path / 'archive'
    write(archive / 'bare.tif', noise(3, 40, 40))
    write(archive / 'no_crs.tif', noise(3, 40, 40, seed=1), transform=NORTH['transform'])
    write(archive / 'placed.tif', noise(3, 40, 40, seed=2), **NORTH)
    write(
        archive / 'local.tif',
        noise(3, 40, 40, seed=3),
        transform=NORTH['transform'],
        crs='LOCAL_CS["site",UNIT["metre",1]]',
    )
    transform = (math.nan, 0, math.inf, 0, -10, 5e6)
    write(archive / 'nan.tif', noise(3, 40, 40, seed=4), crs=NORTH['crs'], transform=transform)
    report = update(tmp_path / 'index', archive, cut=Cut())
    assert (report.added, report.unplaced, report.skipped) == (5, 4, [])
    assert '4 scenes without a place' in str(report)
    assert [hit.footprint is None for hit in hits_of(tmp_path / 'index')] == [True, True, True, True, False]
    with ArchiveIndex(tmp_path / 'index') as opened:
        assert opened.catalog.scene_counts() == dict(scenes=5, unplaced=4, empty_tiles=0)
        assert opened.catalog.counts()['placed'] == 1


def test_tiles_without_data_are_left_out_and_counted(tmp_path):
    values = noise(3, 64, 96)
    values[:, :, :32] = 0  # the first column of tiles
    values[:, :32, 32:52] = 0  # 20 of 32 columns of the next one
    values[:, 32:, 32:44] = 0  # 12 of 32
    write(tmp_path / 'archive/a.tif', values, **NORTH, nodata=0)
    empty = noise(1, 40, 40) * 0
    write(tmp_path / 'archive/empty.tif', empty, **NORTH, nodata=0)
    report = update(tmp_path / 'index', tmp_path / 'archive', cut=TILES)
    assert (report.tiles, report.empty_tiles) == (3, 3)
    assert '3 without data' in str(report)
    ((name, reason),) = report.skipped
    assert (name, reason) == ('empty.tif', 'ValueError: none of 4 tiles holds enough data')
    valid = {hit.window[:2]: hit.valid for hit in hits_of(tmp_path / 'index')}
    assert valid == {(32, 32): 20 / 32, (64, 0): 1, (64, 32): 1}
    report = update(tmp_path / 'other', tmp_path / 'archive', cut=Cut(32, 0, min_valid=0.3))
    assert report.tiles == 4


def test_the_stretch_is_kept_and_shown(tmp_path):
    path = write(tmp_path / 'archive/a.tif', noise(3, 64, 64), **NORTH)
    cut = Cut(32, 0, scenes=SceneReading(bands=(3, 2, 1), scale=(0, 3000)))
    update(tmp_path / 'index', path.parent, cut=cut)
    hit = hits_of(tmp_path / 'index')[0]
    assert hit.scene.rendering == ((3, 2, 1), ((0, 3000),) * 3)
    assert hit.scene.place == Place(NORTH['crs'], NORTH['transform'])
    assert thumbnail(hit)[:3] == b'\xff\xd8\xff'
    with pytest.raises(ValueError, match='made with cut 32 pixels, overlap 0, bands 3,2,1, scale 0,3000, got 32'):
        update(tmp_path / 'index', path.parent, cut=TILES)


def test_equal_pixels_give_equal_vectors_whatever_the_tile(tmp_path):
    """One stretch a scene: the same ground in two windows of one scene looks the same."""
    values = noise(3, 32, 64)
    values[:, :, 32:] = values[:, :, :32]
    values[:, :, 40] *= 3  # what would change a stretch of its own
    values[:, :, 40] //= 3
    write(tmp_path / 'archive/a.tif', values, **NORTH)
    update(tmp_path / 'index', tmp_path / 'archive', cut=TILES)
    first, second = content(tmp_path / 'index').values()
    assert first == second


# what is known of scenes


def item(name, assets=(), **properties):
    links = {str(i): dict(href=href) for i, href in enumerate(assets)}
    return json.dumps(dict(type='Feature', stac_version='1.0.0', id=name, properties=properties, assets=links))


def test_date_platform_and_gsd(tmp_path):
    archive = tmp_path / 'archive'
    for seed, name in enumerate(['item', 'asset', 'S2A_20200203T040506_x', 'bare', 'table']):
        write(archive / f'{name}.tif', noise(3, 40, 40, seed=seed), **NORTH)
    (archive / 'item.json').write_text(
        item(
            'item',
            datetime='2021-06-01T10:00:00Z',
            platform='gf-2',
            gsd=0.8,
            **{'eo:cloud_cover': 12, 'proj:shape': [1]},
        )
    )
    (archive / 'all.json').write_text(
        item(
            'all',
            ['./asset.tif', '../elsewhere/bare.tif', 'table.tif'],
            datetime=None,
            start_datetime='2021-07-01T00:00:00Z',
        )
    )
    for name, text in (
        ('broken.json', '{'),
        ('list.json', '[]'),
        ('bare.json', '{"type": "Feature", "properties": {}}'),
    ):
        (archive / name).write_text(text)
    os.utime(archive / 'bare.tif', (1e9, 1e9))
    pattern = r'(?P<platform>S2[AB])_(?P<datetime>\d{8}T\d{6})_(?P<kind>x)?'
    update(tmp_path / 'index', archive, cut=Cut(), name_pattern=pattern)

    def known():
        return {os.path.basename(hit.path)[:-4]: (hit.time, hit.platform, hit.gsd, hit.metadata)
                for hit in hits_of(tmp_path / 'index')}  # fmt: skip

    july = ('2021-07-01T00:00:00Z', None, 10, dict(start_datetime='2021-07-01T00:00:00Z'))
    expected = {
        'item': ('2021-06-01T10:00:00Z', 'gf-2', 0.8, {'eo:cloud_cover': 12}),
        'asset': july,
        'S2A_20200203T040506_x': ('2020-02-03T04:05:06Z', 'S2A', 10, dict(kind='x')),
        'bare': (None, None, 10, {}),
        'table': july,
    }
    assert known() == expected
    assert len(hits_of(tmp_path / 'index', Where(metadata={'eo:cloud_cover': 12}))) == 1
    assert len(hits_of(tmp_path / 'index', Where(gsd=(0.5, 1)))) == 1
    assert len(hits_of(tmp_path / 'index', Where(gsd=(9, None)))) == 4
    assert len(hits_of(tmp_path / 'index', Where(start='2021-06-02', gsd=(None, 20)))) == 2
    # again, without saying the pattern; an item changes, a table says more
    (archive / 'item.json').write_text(item('item', datetime='2022-01-01T00:00:00Z'))
    (archive / 'all.json').unlink()
    table = {b'table.tif': Description(platform='said', metadata=dict(kind='by hand'))}
    report = update(tmp_path / 'index', archive, cut=Cut(), descriptions=table)
    assert report.kept == 5
    expected |= {
        'item': ('2022-01-01T00:00:00Z', None, 10, {}),
        'asset': (None, None, 10, {}),
        'table': (None, 'said', 10, dict(kind='by hand')),
    }
    assert known() == expected
    update(tmp_path / 'index', archive, cut=Cut(), name_pattern='')
    assert known() == expected | {'S2A_20200203T040506_x': (None, None, 10, {}), 'table': expected['table']}


@pytest.mark.parametrize(
    ('said', 'known'),
    [
        (dict(a=math.nan, b=math.inf, c=-math.inf, d=0.5), dict(metadata=dict(d=0.5))),
        (dict(gsd=10**400), {}),
        (dict(gsd='1' * 400), {}),
        (dict(gsd=math.nan), {}),
        (dict(gsd=True), {}),
        (dict(gsd='0.5'), dict(gsd=0.5)),
        (dict(datetime='0001-01-01T00:00:00+10:00', platform='p'), dict(platform='p')),
        (dict(datetime='9999-12-31T23:59:59-05:00'), {}),
        (dict(datetime='9999-12-31T23:59:59Z'), dict(time=253402300799000)),
    ],
    ids=['not finite', 'digits', 'text', 'nan', 'bool', 'number', 'before', 'after', 'last'],
)
def test_values_of_items_that_mean_nothing_are_left_out(said, known):
    assert description_of(said) == Description(**known)


def test_an_item_with_nan_does_not_break_filters(tmp_path):
    archive = tmp_path / 'archive'
    write(archive / 'a.tif', noise(3, 40, 40), **NORTH)
    (archive / 'a.json').write_text(item('a', clouds=math.nan, huge=10**400, kind='dry'))
    update(tmp_path / 'index', archive, cut=Cut())
    (hit,) = hits_of(tmp_path / 'index', Where(metadata=dict(kind='dry')))
    assert hit.metadata == dict(huge=10**400, kind='dry')


def test_a_table_places_what_has_no_place_of_its_own(tmp_path):
    archive = tmp_path / 'archive'
    write(archive / 'bare.tif', noise(3, 40, 40))
    write(archive / 'placed.tif', noise(3, 40, 40, seed=1), **NORTH)
    update(tmp_path / 'index', archive, cut=Cut())
    table = {name: Description(bounds=(1, 2, 3, 4), platform='p') for name in (b'bare.tif', b'placed.tif')}
    update(tmp_path / 'index', archive, cut=Cut(), descriptions=table)
    bare, placed = hits_of(tmp_path / 'index')
    assert bare.footprint['coordinates'][0][0] == [1, 2]
    assert placed.footprint['coordinates'][0][0] == pytest.approx([15, 45.1534772], abs=1e-6)
    assert [os.path.basename(hit.path) for hit in hits_of(tmp_path / 'index', Where(bbox=(14, 45, 16, 46)))] == [
        'placed.tif'
    ]


@pytest.mark.parametrize('pattern', ['(', r'S2._\d+', '(?P<a>x)(?P<a>y)'])
def test_patterns_that_say_nothing(tmp_path, pattern):
    with pytest.raises(ValueError, match='the pattern of names is'):
        compiled(pattern)


def test_the_size_of_a_pixel():
    assert pixel_size(Place('EPSG:32633', (10, 0, 5e5, 0, -10, 5e6)), 100, 100) == 10
    assert pixel_size(Place('EPSG:3857', (10, 0, 0, 0, -10, 8_399_737)), 100, 100) == 5  # 60 degrees north
    assert pixel_size(Place(None), 100, 100) is None


# faults


def test_bad_files_are_listed_and_the_others_searched(tmp_path):
    archive = tmp_path / 'archive'
    good = write(archive / 'good.tif', noise(3, 64, 64), **NORTH)
    full = good.read_bytes()
    (archive / 'cut.tif').write_bytes(full[: len(full) // 2])
    (archive / 'empty.tif').write_bytes(b'')
    (archive / 'other.tif').write_bytes(b'\x89PNG\r\n')
    (archive / 'vrt.tif').write_text(f'<VRTDataset rasterXSize="9" rasterYSize="9"><!-- {good} --></VRTDataset>')
    odd = os.fsencode(archive) + b"/gr\xe9 'x'\n.tif"
    with open(odd, 'wb') as file:
        file.write(write(tmp_path / 'odd.tif', noise(3, 64, 64, seed=1), **NORTH).read_bytes())
    (archive / 'huge.tif').write_bytes(huge(tmp_path))
    report = update(tmp_path / 'index', archive, cut=TILES)
    assert report.tiles == 8
    reasons = dict(report.skipped)
    assert sorted(reasons) == ['cut.tif', 'empty.tif', 'huge.tif', 'other.tif', 'vrt.tif']
    assert 'vrt.tif is a VRT' in reasons['vrt.tif']
    assert 'pixels, more than' in reasons['huge.tif']
    assert 'cut.tif' in reasons['cut.tif']
    assert update(tmp_path / 'index', archive, cut=TILES).kept == 2
    with ArchiveIndex(tmp_path / 'index') as opened:
        assert not check_index(opened).problems


def huge(folder):
    """A file of some kilobytes that says it has 10^12 pixels."""
    path = write(folder / 'huge.tif', noise(1, 32, 32), **NORTH, compress='none')
    content = bytearray(path.read_bytes())
    order = 'little' if content[:2] == b'II' else 'big'
    start = int.from_bytes(content[4:8], order)
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], order), 12):
        if int.from_bytes(content[at : at + 2], order) in (256, 257):
            content[at + 2 : at + 4] = (4).to_bytes(2, order)
            content[at + 8 : at + 12] = (1_000_000).to_bytes(4, order)
    return bytes(content)


def test_a_scene_that_changes_while_it_is_read(tmp_path):
    path = write(tmp_path / 'archive/a.tif', noise(3, 64, 64), **NORTH)

    class Changing(Encoder):
        def one(self, piece):
            os.utime(path, (1, 1))
            return super().one(piece)

    report = update(tmp_path / 'index', path.parent, Changing(), TILES)
    assert report.skipped[0][0] == 'a.tif'
    assert update(tmp_path / 'index', path.parent, cut=TILES).added == 1


def test_a_scene_that_is_replaced_by_another(tmp_path):
    path = write(tmp_path / 'archive/a.tif', noise(3, 64, 64), **NORTH)
    update(tmp_path / 'index', path.parent, cut=TILES)
    write(path, noise(3, 64, 32, seed=1), **SOUTH)
    update(tmp_path / 'index', path.parent, cut=TILES)
    hits = hits_of(tmp_path / 'index')
    assert len(hits) == 2
    assert all(hit.scene.crs == 'EPSG:32733' and hit.footprint['coordinates'][0][0][1] < 0 for hit in hits)
    assert not hits_of(tmp_path / 'index', Where(bbox=(14, 40, 16, 50)))
    os.rename(path, path.with_name('moved.tif'))
    assert update(tmp_path / 'index', path.parent, cut=TILES).moved == 1
    assert {os.path.basename(hit.path) for hit in hits_of(tmp_path / 'index')} == {'moved.tif'}
    assert len(hits_of(tmp_path / 'index', Where(bbox=(14, -20, 16, -10)))) == 2


def test_without_rasterio_scenes_are_listed(tmp_path, monkeypatch):
    write(tmp_path / 'archive/a.tif', noise(3, 64, 64), **NORTH)
    monkeypatch.setattr('galr_mm.integrations.installation.importlib.util.find_spec', lambda name: None)
    report = update(tmp_path / 'index', tmp_path / 'archive', cut=TILES)
    assert 'get it with: pip install "galr_mm[geo]"' in report.skipped[0][1]


@pytest.mark.slow
def test_killed_while_indexing_scenes(tmp_path, monkeypatch):
    """At random moments: places, dates and vectors of the last index are those of an undisturbed run."""
    monkeypatch.setattr(changes_module, 'COMMIT_TILES', 5)
    archive, options = tmp_path / 'archive', dict(cut=TILES, name_pattern='(?P<kind>[a-z]+)')
    for number in range(5):
        write(archive / f'scene{number}.tif', noise(3, 64, 64, seed=number), **(NORTH if number % 2 else SOUTH))
    update(tmp_path / 'undisturbed', archive, **options)
    start = time.monotonic()
    update(tmp_path / 'again', archive, **options)
    whole, expected = time.monotonic() - start, hits_of(tmp_path / 'undisturbed')
    rng, kills = random.Random(0), 0
    for _ in range(60):
        ended = killed(lambda: update(tmp_path / 'index', archive, **options), rng.uniform(0, whole))
        kills += not ended
        if ended and kills >= 5:
            break
        if ended:
            shutil.rmtree(tmp_path / 'index')
    assert kills >= 5
    update(tmp_path / 'index', archive, **options)
    assert hits_of(tmp_path / 'index') == expected
    assert content(tmp_path / 'index') == content(tmp_path / 'undisturbed')
    with ArchiveIndex(tmp_path / 'index') as opened:
        assert not check_index(opened).problems
