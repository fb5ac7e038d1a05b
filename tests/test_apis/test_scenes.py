"""A model and GeoTIFFs: hits that are one place, heat maps with the place of the scene, the command line."""

import csv
import json
import os

import numpy as np
import pytest
import torch

from galr_mm.apis import ArchiveIndexer, ArchiveSearcher, SceneLocalizer, init_model
from galr_mm.archive import ArchiveIndex, Where, scene_embeddings
from galr_mm.archive.places import kept_of
from galr_mm.cli.archive import main
from galr_mm.imagery import open_scene
from galr_mm.structures import LocalizationMap, Place
from tests.color_retriever import COLORS, ColorRetriever
from tests.geotiff import NORTH, noise, write

pytestmark = pytest.mark.geo
DEEP = 20  # times 8 bit


class Colors(ColorRetriever):
    """One that takes sentences without a color too."""

    def encode_text(self, texts):
        return super().encode_text([text if any(name in text for name in COLORS) else 'gray' for text in texts])


@pytest.fixture
def model():
    model = Colors().eval()
    model._config.model = dict(type='ColorRetriever')
    return model


def colored(path, squares, size=(120, 160), **options):
    """16 bit, gray with colored squares of 40 pixels by their column and row."""
    values = np.full((3, *size), COLORS['gray'][0], np.uint16)
    for (column, row), color in squares.items():
        values[:, row : row + 40, column : column + 40] = np.array(COLORS[color][::-1])[:, None, None]
    return write(path, (values * DEEP).astype(np.uint16), **{**NORTH, **options})


@pytest.fixture
def scene(tmp_path):
    return colored(tmp_path / 'archive/a.tif', {(20, 20): 'red', (100, 70): 'green'})


@pytest.fixture
def index(tmp_path, scene, model):
    """Of two scenes of one place, cut into tiles of 40 pixels that overlap by 20, with the colors as they are."""
    colored(scene.with_name('later.tif'), {(20, 20): 'red'})
    indexer = ArchiveIndexer(model, tmp_path / 'index', tile=40, overlap=20, scenes=dict(scale=(0, 255 * DEEP)))
    assert indexer.update(scene.parent, show_progress=False).tiles == 2 * 5 * 7
    return tmp_path / 'index'


# hits that are one place


def seen(hits):
    return [(os.path.basename(hit.path), hit.window[:2]) for hit in hits]


def test_hits_of_overlapping_tiles_are_one_place(index, model):
    search = ArchiveSearcher(model, index)
    every = search('a red field', topk=70, merge='none')[0]
    assert len(every) == 70
    assert seen(every[:2]) == [('a.tif', (20, 20)), ('later.tif', (20, 20))]
    merged = search('a red field', topk=70)[0]
    windows = [(hit.path, hit.window) for hit in merged]
    for i, (path, a) in enumerate(windows):
        for other, b in windows[:i]:
            assert path != other or a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    lost = [hit for hit in every if hit not in merged]
    for hit in lost:  # each is beside a better one
        better = [kept for kept in merged if kept.path == hit.path and every.index(kept) < every.index(hit)]
        assert any(abs(k.window[0] - hit.window[0]) < 40 and abs(k.window[1] - hit.window[1]) < 40 for k in better)
    for k in (1, 2, 5, 11):
        assert search('a red field', topk=k)[0] == merged[:k]
    places = search('a red field', topk=5, merge='places')[0]
    assert seen(places[:1]) == [('a.tif', (20, 20))]
    assert not any(hit.window[:2] == (20, 20) for hit in places[1:])
    with pytest.raises(ValueError, match="merge is 'all', expected one of tiles, places, none"):
        search('a red field', merge='all')


def test_a_filter_and_a_cut_off_come_first(index, model):
    search = ArchiveSearcher(model, index)
    best = search('a red field', topk=3, merge='none')[0][0]
    found = search('a red field', topk=9, where=Where(min_score=best.score - 1e-6))[0]
    assert seen(found) == [('a.tif', (20, 20)), ('later.tif', (20, 20))]
    west, south, east, north = (min(x for x, _ in best.footprint['coordinates'][0]),
                                min(y for _, y in best.footprint['coordinates'][0]),
                                max(x for x, _ in best.footprint['coordinates'][0]),
                                max(y for _, y in best.footprint['coordinates'][0]))  # fmt: skip
    inside = search('a green field', topk=70, where=Where(bbox=(west, south, east, north)), merge='none')[0]
    assert {hit.window[0] for hit in inside} <= {0, 20, 40, 60}


def test_a_place_across_the_antimeridian(tmp_path, model):
    options = dict(crs='EPSG:4326', transform=(0.01, 0, 179.2, 0, -0.01, 1))
    archive = tmp_path / 'archive'
    for name in ('a', 'b'):
        colored(archive / f'{name}.tif', {(20, 20): 'red'}, **options)
    ArchiveIndexer(model, tmp_path / 'index').update(archive, show_progress=False)
    with ArchiveIndex(tmp_path / 'index') as opened:
        tiles = list(opened.catalog.tiles([0, 1]).values())
    assert tiles[0].geometry['type'] == 'MultiPolygon'
    assert [kept_of(tiles, merge) for merge in ('tiles', 'places', 'none')] == [[0, 1], [0], [0, 1]]


@pytest.mark.parametrize('scenes', [{}, dict(scale=(0, 9000.1234)), dict(bands=(3, 1, 2)), dict(trusted=True)], ids=str)
def test_a_scene_as_query_is_read_as_the_index_reads_it(tmp_path, model, scenes):
    from rasterio.shutil import copy

    path = write(tmp_path / 'archive/a.tif', noise(3, 40, 40) * np.array([1, 2, 5], np.uint16)[:, None, None], **NORTH)
    write(path.with_name('b.tif'), noise(3, 40, 40, seed=1), **NORTH)
    trusted = scenes.get('trusted', False)
    if trusted:
        path = path.with_name('vrt.tif')
        copy(tmp_path / 'archive/a.tif', path, driver='VRT')
        (tmp_path / 'archive/a.tif').rename(tmp_path / 'a.tif')
        path.write_text(path.read_text().replace('a.tif', '../a.tif'))
    indexer = ArchiveIndexer(model, tmp_path / 'index', scenes=scenes)
    assert indexer.update(path.parent, show_progress=False).skipped == []
    search = ArchiveSearcher(model, tmp_path / 'index', trusted=trusted)
    hit = search(path, topk=1, show_dir=tmp_path)[0][0]
    assert hit.path == str(path)
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert 'data:image/jpeg' in (tmp_path / 'hits.html').read_text()
    indexer.make_bank(['a red field', 'a green field.jpg'], [path])
    np.testing.assert_allclose(search.bank.image, search.model.encode_queries([path], scenes=search.scenes)[0])
    assert len(search.bank.text) == 2  # a caption is never a path
    if trusted:
        with pytest.raises(ValueError, match=r'vrt\.tif is a VRT, which names other files'):
            ArchiveSearcher(model, tmp_path / 'index')(path)


@pytest.mark.parametrize('captions', [[], 'a red field'])
def test_a_bank_of_no_captions_does_not_replace_one(index, model, captions):
    indexer = ArchiveIndexer(model, index)
    before = indexer.make_bank(['a red field']).read_bytes()
    with pytest.raises(ValueError, match='captions are .*, expected a list of one or more'):
        indexer.make_bank(captions)
    assert (index / 'bank.npz').read_bytes() == before


# heat maps


def test_a_map_has_the_place_of_its_scene(tmp_path, model, scene):
    import rasterio

    found = SceneLocalizer(model, [40], scenes=dict(scale=(0, 255 * DEEP)))(scene, 'a red field')
    column, row = found.peak
    assert 20 <= column < 60
    assert 20 <= row < 60
    found.save(tmp_path / 'red.tif')
    with rasterio.open(tmp_path / 'red.tif') as file, rasterio.open(scene) as original:
        assert (file.crs, file.transform, file.shape) == (original.crs, original.transform, original.shape)
        assert file.dtypes == ('float32',)
        np.testing.assert_array_equal(file.read(1), found.similarity)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['red.tif']


@pytest.mark.parametrize(('kind', 'side'), [('tif', 400), ('tif', 900), ('npy', 900), ('png', 900)])
def test_a_map_on_a_full_disk_leaves_the_old_one(small_disk, kind, side):
    """GDAL writes a small file when it closes it, of which rasterio says nothing; numpy does not name the file."""
    path = small_disk / f'map.{kind}'
    path.write_text('old')
    cells = np.random.default_rng(0).random((side, side)).astype(np.float32)
    edges = np.arange(side + 1)
    found = LocalizationMap('a field', edges, edges, cells, Place(NORTH['crs'], NORTH['transform']))
    with pytest.raises(OSError, match=rf"map\.{kind}'$"):
        found.save(path)
    assert path.read_text() == 'old'
    assert list(small_disk.iterdir()) == [path]


def test_windows_without_data_are_gaps(tmp_path, model):
    import rasterio

    values = noise(3, 120, 160)
    values[:, :, :80] = 0
    path = write(tmp_path / 'a.tif', values, **NORTH, nodata=0)
    found = SceneLocalizer(model, [40])(path, 'a red field')
    assert np.isnan(found.similarity[:, :60]).all()
    assert not np.isnan(found.similarity[:, 80:]).any()
    found.save(tmp_path / 'map.tif')
    with rasterio.open(tmp_path / 'map.tif') as file:
        assert (file.read_masks(1)[:, :60] == 0).all()
    with pytest.raises(ValueError, match='the scene holds no data'):
        SceneLocalizer(model, [40])(write(tmp_path / 'b.tif', values * 0, **NORTH, nodata=0), 'a red field')


def test_a_large_map_is_written_by_rows_and_drawn_smaller(tmp_path, model, monkeypatch):
    import cv2
    import rasterio

    found = SceneLocalizer(model, [40])(np.zeros((700, 300, 3), np.uint8) + 9, 'a red field')
    object.__setattr__(found, 'cells', np.random.default_rng(0).random(found.cells.shape, np.float32))
    found.save(tmp_path / 'a.tif')
    with rasterio.open(tmp_path / 'a.tif') as file:
        assert file.crs is None
        np.testing.assert_array_equal(file.read(1), found.similarity)
    monkeypatch.setattr('galr_mm.structures.localization.MAX_DRAWN', 700 * 300 // 4)
    found.save(tmp_path / 'a.png')
    drawn = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(drawn, (found.normalized() * 255).astype(np.uint8)[::2, ::2])


def test_the_tiles_of_an_index_make_a_map(index, model, scene):
    calls = model.calls
    with ArchiveIndex(index) as opened:
        embeddings = scene_embeddings(opened, scene)
        same = scene_embeddings(opened, 'a.tif')
        with pytest.raises(FileNotFoundError, match=r'has no tiles of nowhere\.tif'):
            scene_embeddings(opened, 'nowhere.tif')
    assert torch.equal(embeddings.vectors, same.vectors)
    found = SceneLocalizer(model)(embeddings, 'a red field')
    assert model.calls == calls
    assert (embeddings.place.crs, embeddings.place.transform) == (NORTH['crs'], NORTH['transform'])
    with open_scene(scene, rendering=None) as opened:
        size = opened.height, opened.width
    total, count = np.zeros(size), np.zeros(size)
    for (left, top, right, bottom), vector in zip(embeddings.windows, embeddings.vectors, strict=True):
        total[top:bottom, left:right] += float(vector @ model.encode_text(['a red field'])[0])
        count[top:bottom, left:right] += 1
    np.testing.assert_allclose(found.similarity, total / count, atol=1e-6)


def test_the_scene_of_a_map_is_the_one_that_is_named(index, scene, tmp_path, monkeypatch):
    def names(path):
        with ArchiveIndex(index) as opened:
            return len(scene_embeddings(opened, path).windows)

    monkeypatch.chdir(scene.parent)
    outside, folder = tmp_path / 'outside', tmp_path / 'folder'
    outside.mkdir()
    (folder).symlink_to(scene.parent)
    (tmp_path / 'link.tif').symlink_to(scene)
    for same in ('a.tif', './a.tif', folder / 'a.tif', tmp_path / 'link.tif'):
        assert names(same) == 35
    monkeypatch.chdir(outside)
    assert names('./a.tif') == 35  # the name in the archive: there is no such file here
    colored(outside / 'a.tif', {})
    with pytest.raises(FileNotFoundError, match=r'has no tiles of \./a\.tif'):
        names('./a.tif')


def test_a_link_in_an_archive_has_a_map(tmp_path, model):
    archive = tmp_path / 'archive'
    (archive / 'north').mkdir(parents=True)
    colored(tmp_path / 'elsewhere/a.tif', {(20, 20): 'red'})
    (archive / 'link.tif').symlink_to(tmp_path / 'elsewhere/a.tif')
    (archive / 'north/folder').symlink_to(tmp_path / 'elsewhere')
    ArchiveIndexer(model, tmp_path / 'index').update(archive, show_progress=False)
    with ArchiveIndex(tmp_path / 'index') as opened:
        for name in ('link.tif', 'north/folder/a.tif'):
            assert len(scene_embeddings(opened, archive / name).windows) == 1


def test_a_scene_that_has_changed_since_it_was_indexed(index, scene):
    os.utime(scene, ns=(5, 5))
    with ArchiveIndex(index) as opened:
        assert len(scene_embeddings(opened, scene).windows) == 35  # the content is the same
        colored(scene, {(20, 20): 'blue'})
        for path in (scene, 'a.tif'):
            with pytest.raises(ValueError, match=r'a\.tif has changed since it was indexed'):
                scene_embeddings(opened, path)
        scene.unlink()
        assert len(scene_embeddings(opened, 'a.tif').windows) == 35


# the command line


@pytest.fixture(scope='module')
def flags(mini_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    torch.manual_seed(0)
    torch.save(dict(state_dict=init_model(mini_config).state_dict()), folder / 'model.pth')
    return ['--model', str(mini_config), '--checkpoint', str(folder / 'model.pth'), '--device', 'cpu']


def test_the_command_line(tmp_path, flags, capsys):
    import rasterio
    from pyarrow import parquet

    archive, index = tmp_path / 'archive', str(tmp_path / 'index')
    path = write(archive / 'S2A_20210601.tif', noise(4, 96, 128), **NORTH)
    write(archive / 'bare.tif', noise(3, 64, 64))
    pattern = r'(?P<platform>S2A)_(?P<datetime>\d{8})'
    options = ['--tile', '64', '--overlap', '16', '--bands', '3,2,1', '--scale', '0,3000', '--name-pattern', pattern]
    main(['index', str(archive), '--index', index, *options, *flags])
    assert '2 added; 7 tiles encoded, 1 scenes without a place' in capsys.readouterr().out
    main(['info', index])
    said = capsys.readouterr().out
    assert 'scenes       2, 1 of them without a place; 0 tiles without data are left out' in said
    assert 'images cut   64 pixels, overlap 16, bands 3,2,1, scale 0,3000' in said
    outputs = [tmp_path / f'hits.{kind}' for kind in ('geojson', 'parquet', 'csv')]
    words = ['search', index, 'two ships', *flags, '--topk', '9', '--merge', 'none', '--out', *map(str, outputs)]
    main([*words, '--date', '2021-06-01/', '--gsd', '9/11', '--platform', 'S2A', '--bbox', '14', '44', '16', '46'])
    features = json.loads(outputs[0].read_text())['features']
    assert len(features) == 6
    table = parquet.read_table(outputs[1]).to_pylist()
    rows = list(csv.DictReader(outputs[2].open(newline='')))
    assert (
        [f['properties']['tile_id'] for f in features] == [r['tile_id'] for r in table] == [r['tile_id'] for r in rows]
    )
    main(['search', index, 'two ships', *flags, '--topk', '9'])
    assert 'two ships: 3 hits' in capsys.readouterr().out
    maps = [tmp_path / 'ships.tif', tmp_path / 'ships.png']
    main(['locate', str(path), 'two ships', *flags, '--scales', '64', '--out', *map(str, maps)])
    assert 'longitude 15.0' in capsys.readouterr().out
    main(['locate', str(path), 'two ships', *flags, '--index', index, '--out', str(tmp_path / 'tiles.tif')])
    with rasterio.open(tmp_path / 'tiles.tif') as file, rasterio.open(path) as original:
        assert (file.crs, file.transform) == (original.crs, original.transform)
    assert maps[1].stat().st_size


def test_an_index_of_trusted_files(tmp_path, flags):
    from rasterio.shutil import copy

    path, index = tmp_path / 'archive/vrt.tif', str(tmp_path / 'index')
    path.parent.mkdir()
    copy(write(tmp_path / 'a.tif', noise(3, 40, 40), **NORTH), path, driver='VRT')
    main(['index', str(path.parent), '--index', index, '--trusted', *flags])
    for trusted in ([], ['--trusted']):
        main(['search', index, 'two ships', *flags, *trusted, '--out', str(tmp_path / 'hits.html')])
        main(['export', index, *trusted, '--out', str(tmp_path / 'all.html')])
        for name in ('hits.html', 'all.html'):
            assert ('data:image/jpeg' in (tmp_path / name).read_text()) == bool(trusted)
    main(['search', index, '--image', str(path), '--trusted', *flags])


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('locate nowhere.tif ship --out a.tif', 'no scene at nowhere.tif'),
        ('locate http://localhost:1/a.tif ship --out a.tif', 'no scene at http:/localhost'),
        ('locate SCENE ship --out a.jpg', '--out is a.jpg, expected a file name that ends in .tif, .png, .npy'),
        ('locate SCENE ship --out a.tif --index nowhere', 'no archive index at nowhere'),
        ('locate SCENE ship --out a.tif --index x --scales 9', '--index takes tiles as they are'),
        ('locate SCENE ship --out a.tif --median 3', '--median is 3, which filters a .png'),
        ('index ARCHIVE --index x --scale 1', 'scale is [1.0], expected two numbers'),
        ('index ARCHIVE --index x --overlap -1', 'overlap is -1 without a tile'),
        ('index ARCHIVE --index x --scale 5,5', 'scale is [5.0, 5.0], expected two numbers, the lower one first'),
        ('index ARCHIVE --index x --min-valid 2', 'min_valid is 2.0, expected 0 to 1'),
        ('index ARCHIVE --index x --name-pattern (', 'the pattern of names is'),
        ('search x ship --gsd 1', "--gsd is '1', not A/B in meters"),
    ],
)
def test_errors_are_one_line(tmp_path, flags, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    scene = write(tmp_path / 'archive/a.tif', noise(3, 40, 40), **NORTH)
    names = dict(SCENE=str(scene), ARCHIVE=str(scene.parent))
    with pytest.raises(SystemExit) as caught:
        main([*(names.get(word, word) for word in command.split()), *flags])
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'x').exists()
