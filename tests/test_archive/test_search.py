"""Searches are exact: ties, filters and every k agree with a plain product of the same vectors."""

import json
from datetime import date

import numpy as np
import pytest
import torch

from galr_mm.archive import Description, Where, open_writer
from galr_mm.archive import search as search_module
from galr_mm.archive.lookup import facets
from galr_mm.archive.search import nearest
from tests.test_archive.helpers import MODEL, entry, fill, reading, vector

DIM = MODEL.dim


def brute_force(vectors, rows, query, k):
    """By the rule: descending score, equal ones by lower row."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = sorted(rows, key=lambda row: (-scores[row], row))[:k]
    return order, scores[order]


@pytest.fixture(params=[1 << 14, 7], ids=['one block', 'many blocks'])
def blocks(request, monkeypatch):
    monkeypatch.setattr(search_module, 'BLOCK', request.param)
    monkeypatch.setattr(search_module, 'QUERIES', 3)


@pytest.mark.parametrize('k', [1, 2, 5, 33, 1000])
def test_it_is_a_plain_product(tmp_path, blocks, k):
    vectors = np.stack([vector(n) for n in range(60)])
    fill(tmp_path / 'index', vectors, shard_rows=17)
    queries = np.stack([vector(1000 + n) for n in range(8)])
    with reading(tmp_path / 'index') as (_, snapshot):
        found = nearest(snapshot, queries, k)
    assert found.rows.shape == (8, min(k, 60))
    for query, rows, scores in zip(queries, *found, strict=True):
        expected, values = brute_force(vectors, range(60), query, k)
        assert rows.tolist() == expected
        np.testing.assert_allclose(scores, values, atol=1e-12)


@pytest.mark.parametrize('dim', [8, 33, 512])
def test_copies_tie_and_come_by_their_row(tmp_path, monkeypatch, dim):
    """Wherever a vector stands in a file, a block or a filter, its product is the same to the last bit."""
    monkeypatch.setattr(search_module, 'BLOCK', 100)
    rng = np.random.default_rng(0)
    kinds = np.stack([vector(n, dim) for n in range(5)])
    labels = rng.integers(0, 5, 700)
    fill(tmp_path / 'index', kinds[labels], shard_rows=333, model=MODEL._replace(dim=dim))
    query = vector(7, dim)
    order = np.argsort(-(kinds.astype(np.float64) @ query.astype(np.float64)))
    expected = [row for kind in order for row in np.flatnonzero(labels == kind)]
    with reading(tmp_path / 'index') as (_, snapshot):
        assert nearest(snapshot, query[None], 400).rows[0].tolist() == expected[:400]
        chosen = np.sort(rng.choice(700, 301, replace=False))
        wanted = [row for row in expected if row in set(chosen.tolist())]
        assert nearest(snapshot, query[None], 200, chosen).rows[0].tolist() == wanted[:200]


def test_the_first_five_are_the_head_of_more(tmp_path, blocks):
    vectors = np.stack([vector(n % 20) for n in range(90)])
    fill(tmp_path / 'index', vectors, shard_rows=40)
    with reading(tmp_path / 'index') as (_, snapshot):
        for seed in range(20):
            whole = nearest(snapshot, vector(seed)[None], 90)
            for k in (1, 5, 15, 89):
                part = nearest(snapshot, vector(seed)[None], k)
                assert part.rows[0].tolist() == whole.rows[0, :k].tolist()
                assert part.scores[0].tolist() == whole.scores[0, :k].tolist()


def test_several_queries_are_one_at_a_time(tmp_path):
    fill(tmp_path / 'index', [vector(n % 9) for n in range(50)], shard_rows=16)
    queries = torch.stack([torch.from_numpy(vector(n)) for n in range(30)])
    with reading(tmp_path / 'index') as (_, snapshot):
        together = nearest(snapshot, queries, 12)
        for query, rows in zip(queries, together.rows, strict=True):
            assert nearest(snapshot, query[None], 12).rows[0].tolist() == rows.tolist()


def test_what_is_not_there(tmp_path):
    fill(tmp_path / 'index', [])
    with reading(tmp_path / 'index') as (_, snapshot):
        assert nearest(snapshot, vector(0)[None], 3).rows.shape == (1, 0)
    fill(tmp_path / 'index', [vector(1)])
    with reading(tmp_path / 'index') as (_, snapshot):
        assert nearest(snapshot, vector(0)[None], 3).rows.tolist() == [[0]]
        assert nearest(snapshot, vector(0)[None], 3, np.zeros(0, np.int64)).rows.shape == (1, 0)
        with pytest.raises(ValueError, match='k is 0, expected a whole number of 1 or more'):
            nearest(snapshot, vector(0)[None], 0)
        with pytest.raises(ValueError, match='queries and vectors differ in width'):
            nearest(snapshot, vector(0, 9)[None], 1)
        with pytest.raises(ValueError, match='of queries are NaN'):
            nearest(snapshot, vector(0)[None] * np.nan, 1)


# filters


def random_description(rng):
    place = None
    if rng.random() < 0.8:
        west, south = rng.uniform(-180, 180), rng.uniform(-90, 80)
        east = west + rng.choice([0.001, 1, 50, 170])
        place = (west, south, east if east <= 180 else east - 360, south + rng.uniform(0, 10))
    return Description(
        time=None if rng.random() < 0.2 else int(rng.integers(-(10**12), 2 * 10**12)),
        platform=[None, 'GF-2', "Sentinel '2"][rng.integers(3)],
        bounds=place,
        metadata={} if rng.random() < 0.2 else dict(season=['dry', 'wet'][rng.integers(2)], year=int(rng.integers(3))),
    )


def intervals(bounds):
    west, _, east, _ = bounds
    return [(west, east)] if west <= east else [(west, 180), (-180, east)]


def passes(description, where):
    """The filter, one tile at a time, in Python."""
    if where.bbox is not None:
        if description.bounds is None:
            return False
        if description.bounds[1] > where.bbox[3] or description.bounds[3] < where.bbox[1]:
            return False
        pairs = [(a, b) for a in intervals(description.bounds) for b in intervals(where.bbox)]
        if not any(a[0] <= b[1] and b[0] <= a[1] for a, b in pairs):
            return False
    for bound, wrong in ((where._period[0], -1), (where._period[1], 1)):
        if bound is not None and (description.time is None or (description.time - bound) * wrong > 0):
            return False
    if where.platform is not None and description.platform not in where._platforms:
        return False
    return all(str(description.metadata.get(name)) == str(value) for name, value in where.metadata.items())


def random_where(rng):
    options = {}
    if rng.random() < 0.6:
        west, east = rng.uniform(-180, 180, 2)
        south, north = sorted(rng.uniform(-90, 90, 2))
        options['bbox'] = (west, south, east, north)
    if rng.random() < 0.3:
        options['start'] = str(np.datetime64(int(rng.integers(-(10**12), 10**12)), 'ms'))
    if rng.random() < 0.3:
        options['end'] = str(np.datetime64(int(rng.integers(10**12, 2 * 10**12)), 'ms'))
    if rng.random() < 0.3:
        options['platform'] = ['GF-2', "Sentinel '2", ['GF-2', "Sentinel '2"], 'none'][rng.integers(4)]
    if rng.random() < 0.4:
        options['metadata'] = [dict(season='dry'), dict(year=1), dict(year='2', season='wet')][rng.integers(3)]
    return Where(**options)


@pytest.fixture(scope='module')
def described(tmp_path_factory):
    """An index of described tiles, some of them hidden and some deleted."""
    folder, rng = tmp_path_factory.mktemp('described'), np.random.default_rng(1)
    descriptions = [random_description(rng) for _ in range(200)]
    vectors = np.stack([vector(n % 150) for n in range(200)])
    fill(folder / 'index', vectors, shard_rows=64)
    with open_writer(folder / 'index') as writer, writer.catalog.transaction():
        for known in writer.catalog.sources().values():
            writer.catalog.describe(known.id, descriptions[known.state.size])
        ids = {known.state.size: known.id for known in writer.catalog.sources().values()}
        writer.catalog.hide([ids[n] for n in range(0, 200, 11)])
        writer.catalog.delete([ids[n] for n in range(5, 200, 17)])
    live = [n for n in range(200) if n % 11 and n % 17 != 5]
    return folder / 'index', descriptions, vectors, live


def test_filtered_search_is_filter_then_brute_force(described):
    index, descriptions, vectors, live = described
    rng, sizes = np.random.default_rng(2), []
    with reading(index) as (opened, snapshot):
        for case in range(1000):
            where, query, k = random_where(rng), vector(5000 + case), int(rng.integers(1, 30))
            passing = [row for row in live if passes(descriptions[row], where)]
            rows = opened.catalog.rows_where(where)
            assert rows.tolist() == passing, where
            expected, scores = brute_force(vectors, passing, query, k)
            found = nearest(snapshot, query[None], k, rows)
            assert found.rows[0].tolist() == expected
            np.testing.assert_allclose(found.scores[0], scores, atol=1e-12)
            sizes.append(len(passing))
    assert min(sizes) == 0
    assert max(sizes) > 100


def test_unfiltered_search_leaves_out_what_is_hidden(described):
    index, _, vectors, live = described
    with reading(index) as (opened, snapshot):
        everything = opened.catalog.rows_where(Where())
        assert everything.tolist() == live
        for seed in range(30):
            found = nearest(snapshot, vector(seed)[None], 20)
            assert found.rows[0].tolist() == brute_force(vectors, live, vector(seed), 20)[0]
            assert found.rows[0].tolist() == nearest(snapshot, vector(seed)[None], 20, everything).rows[0].tolist()


INJECTION = "x' OR 1=1 --"


@pytest.mark.parametrize(
    'where',
    [
        Where(platform=INJECTION),
        Where(metadata={INJECTION: '1'}),
        Where(metadata=dict(season=INJECTION)),
        Where(metadata={'$."season"': 'dry'}),
        Where(metadata={'a"b': 'x'}),
    ],
    ids=['platform', 'name', 'value', 'path', 'quote'],
)
def test_filters_are_values_not_sql(described, where):
    with reading(described[0]) as (opened, _):
        assert opened.catalog.rows_where(where).tolist() == []
        assert '1=1' not in where.condition()[0]


def test_any_name_and_kind_of_field(tmp_path):
    fields = {'a"b': 'x', "c'd": 'y', 'day': 3, 'share': 0.5, 'clear': True, 'Größe': '7'}
    fill(tmp_path / 'index', [vector(0), vector(1)])
    with open_writer(tmp_path / 'index') as writer, writer.catalog.transaction():
        (first, _) = writer.catalog.sources().values()
        writer.catalog.describe(first.id, Description(metadata=json.loads(json.dumps(fields))))
    with reading(tmp_path / 'index') as (opened, _):
        for name, value in fields.items():
            assert opened.catalog.rows_where(Where(metadata={name: value})).tolist() == [0], name
        assert opened.catalog.rows_where(Where(metadata=dict(day='3', share='0.5', clear='true'))).tolist() == [0]
        assert opened.catalog.rows_where(Where(metadata=dict(clear='1'))).tolist() == []
        assert facets(opened.catalog).fields['clear'] == ['true']
        assert opened.catalog.rows_where(Where(metadata=dict(day=4))).tolist() == []


def test_days_are_whole(tmp_path):
    fill(tmp_path / 'index', [vector(0)])
    with open_writer(tmp_path / 'index') as writer, writer.catalog.transaction():
        (known,) = writer.catalog.sources().values()
        writer.catalog.describe(known.id, Description(time=1622584799999))  # 2021-06-01T21:59:59.999Z
    with reading(tmp_path / 'index') as (opened, _):

        def found(**options):
            return len(opened.catalog.rows_where(Where(**options)))

        assert found(start='2021-06-01', end='2021-06-01') == 1
        assert found(end='2021-05-31') == 0
        assert found(start='2021-06-02') == 0
        assert found(start='2021-06-01T23:59:59.999+02:00') == 1
        assert found(start='2021-06-01T22:00:00Z') == 0
        for day in ('20210601', '2021W222', '2021-W22-2'):
            try:
                date.fromisoformat(day)
            except ValueError:  # Python 3.10 reads 2021-06-01 only
                continue
            assert found(start=day, end=day) == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(bbox=(0, 0, 1)), r'bbox is \(0, 0, 1\), expected west, south, east, north'),
        (dict(bbox=(0, 2, 1, 1)), 'south <= north'),
        (dict(bbox=(0, 0, 190, 1)), '-180 to 180'),
        (dict(bbox=(0, 0, float('nan'), 1)), 'bbox is'),
        (dict(bbox=5), 'bbox is 5, expected west, south, east, north'),
        (dict(gsd=5), 'gsd is 5, expected two numbers'),
        (dict(platform=5), 'platform is 5, expected a text'),
        (dict(metadata=5), 'metadata is 5, expected values by field'),
        (dict(bbox='abcd'), "bbox is 'abcd'"),
        (dict(start='yesterday'), "start is 'yesterday', expected a date or a time such as 2021-06-01T12:00:00Z"),
        (dict(start='2021-13-01'), 'start is'),
        (dict(end=''), "end is ''"),
        (dict(end='2021-W22'), "end is '2021-W22', expected a date"),
        (dict(end='9999-12-31T23:59:59-05:00'), 'of the years 1 to 9999 UTC'),
        (dict(gsd=(5, 1)), 'gsd is from 5 to 1, expected the smaller number first'),
        (dict(start='2022-01-01', end='2021-01-01'), 'after end'),
        (dict(min_score='high'), "min_score is 'high', expected a number"),
        (dict(metadata=dict(a=[1])), r"metadata is 'a': \[1\]"),
        (dict(metadata=dict(a='\udcff')), 'is not text'),
        (dict(platform=[3]), '3 in a filter is not text'),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_filters_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Where(**options)


def test_the_memory_is_a_few_blocks(tmp_path, monkeypatch):
    """Whatever the index holds: numpy and torch ask for no array as large as its vectors."""
    import tracemalloc

    monkeypatch.setattr(search_module, 'BLOCK', 1 << 10)
    dim, rng = 64, np.random.default_rng(0)
    vectors = rng.standard_normal((40000, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_writer(tmp_path / 'index', MODEL._replace(dim=dim), shard_rows=1 << 14) as writer:
        writer.shards.append([], 0, vectors)
        first = entry(0, vectors[0])
        writer.put([first])
    with reading(tmp_path / 'index') as (_, snapshot):
        parts = [np.memmap(writer.shards.path(n), np.float32, 'r').reshape(-1, dim) for n in range(3)]
        large = snapshot._replace(rows=40000, parts=parts)
        assert large.shard_rows == 1 << 14
        tracemalloc.start()
        found = nearest(large, vectors[:4], 10, np.arange(0, 40000, 2))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < vectors.nbytes / 5
    np.testing.assert_array_equal(found.rows[:, 0] % 2, 0)
