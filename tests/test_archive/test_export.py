"""Hits as files that other programs open."""

import csv
import json
import os
import re

import pytest

from galr_mm.archive import Box, Hit, export_hits
from galr_mm.archive.geoparquet import to_wkb
from galr_mm.archive.records import footprint_of
from galr_mm.imagery import Window
from tests.test_archive.helpers import draw

BOXES = (Box(1, 2, 5, 6, 0.5, '<tank>'),)


@pytest.fixture
def hits(tmp_path):
    path = draw(tmp_path / 'a <b> "c".png', 1, size=(6, 8))
    placed = Hit(
        str(path), 0.5, 'a/0-0-8-6', Window(0, 0, 8, 6), (6, 8), footprint_of((170, 1, -170, 2)), BOXES,
        '2021-06-01T00:00:00Z', 'GF-2', 0.8, dict(season='<dry>'),
    )  # fmt: skip
    part = Hit(str(path), 0.25, 'a/2-1-8-5', Window(2, 1, 8, 5), (6, 8), rerank_score=1.5)
    odd = Hit(os.fsdecode(os.fsencode(tmp_path) + b'/not utf8 \xff.png'), None, 'x', Window(0, 0, 1, 1), (1, 1))
    return [('a <script>alert(1)</script>', [placed, part]), ('=1+1', [odd]), ('nothing', [])]


def test_geojson(hits, tmp_path):
    export_hits(hits, tmp_path / 'hits.geojson')
    content = json.loads((tmp_path / 'hits.geojson').read_text(encoding='utf-8'))
    assert content['type'] == 'FeatureCollection'
    first, second, odd = content['features']
    assert all(feature['type'] == 'Feature' for feature in content['features'])
    assert second['geometry'] is None
    assert first['geometry']['type'] == 'MultiPolygon'
    for polygon in first['geometry']['coordinates']:
        (ring,) = polygon
        assert ring[0] == ring[-1]
        area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, ring[1:], strict=False))
        assert area > 0  # counterclockwise
        assert all(-180 <= x <= 180 for x, _ in ring)
    assert first['properties']['boxes'] == [dict(bbox=[1, 2, 5, 6], score=0.5, label='<tank>')]
    assert first['properties']['metadata'] == dict(season='<dry>')
    assert second['properties'] | dict(rank=2, score=0.25, rerank_score=1.5) == second['properties']
    assert odd['properties']['path'].endswith('not utf8 \\udcff.png')


def test_csv(hits, tmp_path):
    export_hits(hits, tmp_path / 'hits.csv')
    rows = list(csv.DictReader((tmp_path / 'hits.csv').open(encoding='utf-8', newline='')))
    assert [row['rank'] for row in rows] == ['1', '2', '1']
    assert json.loads(rows[1]['window']) == [2, 1, 8, 5]
    assert json.loads(rows[0]['footprint'])['type'] == 'MultiPolygon'
    assert rows[2]['query'] == "'=1+1"  # a table program would run it
    assert rows[0]['score'] == '0.5'


def test_html(hits, tmp_path):
    export_hits(hits, tmp_path / 'hits.html')
    page = (tmp_path / 'hits.html').read_text(encoding='utf-8')
    assert page.count('data:image/jpeg;base64') == 2
    assert '<script>' not in page
    assert 'season: &lt;dry&gt;' in page
    assert 'a &lt;b&gt; &quot;c&quot;.png' in page
    assert 'Nothing was found.' in page
    assert all(link.startswith('data:') for link in re.findall(r'(?:src|href)="?([^">]*)', page))  # nothing is fetched
    assert page.count('<div class=none>') == 1  # the file is not there


def test_a_file_that_has_another_size_now(hits, tmp_path):
    draw(tmp_path / 'a <b> "c".png', 1, size=(3, 3))
    export_hits(hits, tmp_path / 'hits.html')
    page = (tmp_path / 'hits.html').read_text(encoding='utf-8')
    assert page.count('has another size now') == 2


def test_another_kind_of_file(hits, tmp_path):
    with pytest.raises(ValueError, match=r'hits.shp: expected a name that ends in .geojson, .csv, .html'):
        export_hits(hits, tmp_path / 'hits.shp')


@pytest.mark.geo
def test_geoparquet(hits, tmp_path):
    shapely = pytest.importorskip('shapely')
    from pyarrow import parquet

    export_hits(hits, tmp_path / 'hits.parquet')
    file = parquet.ParquetFile(tmp_path / 'hits.parquet')
    geo = json.loads(file.schema_arrow.metadata[b'geo'])
    assert (geo['version'], geo['primary_column']) == ('1.1.0', 'geometry')
    about = geo['columns']['geometry']
    assert about['encoding'] == 'WKB'
    assert about['geometry_types'] == ['MultiPolygon']
    assert about['bbox'] == [-180, 1, 180, 2]
    first, second, odd = file.read().to_pylist()
    expected = shapely.geometry.shape(footprint_of((170, 1, -170, 2)))
    assert shapely.from_wkb(first['geometry']).equals(expected)
    assert second['geometry'] is None
    assert first['time'].isoformat() == '2021-06-01T00:00:00+00:00'
    assert (first['rank'], first['score'], first['window'], first['gsd']) == (1, 0.5, [0, 0, 8, 6], 0.8)
    assert json.loads(first['metadata']) == dict(season='<dry>')
    assert json.loads(first['boxes'])[0]['label'] == '<tank>'
    assert odd['path'].endswith('not utf8 \\udcff.png')
    export_hits([('nothing', [])], tmp_path / 'empty.parquet')
    assert parquet.read_table(tmp_path / 'empty.parquet').num_rows == 0


@pytest.mark.geo
@pytest.mark.parametrize('bounds', [(1, 2, 3, 4), (170, 1, -170, 2)], ids=['one polygon', 'two'])
def test_well_known_binary(bounds):
    shapely = pytest.importorskip('shapely')
    geometry = footprint_of(bounds)
    assert shapely.from_wkb(to_wkb(geometry)).equals(shapely.geometry.shape(geometry))
