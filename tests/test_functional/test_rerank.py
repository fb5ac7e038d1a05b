import math

import numpy as np
import pytest
import torch

from galr_mm.functional import (
    multivariate_rerank,
    multivariate_rerank_from_features,
    product_rerank,
    reverse_rank_rerank,
)
from galr_mm.functional.rerank import tiles as tile_sizes


def slow_mr(
    s,
    k,
    weights=(0.3, 1.0, 1.1),
    decay=0.05,
    reverse='ordinal',
    reverse_top=None,
    significance='ratio',
    backward=None,
    filler=None,
):
    """The formula, query by query, in Python floats: each query's new order, and the scores of its candidates."""
    s = s.double().tolist()
    queries, size = len(s), len(s[0])
    back = [[s[i][c] for i in range(queries)] for c in range(size)] if backward is None else backward.double().tolist()
    rank = [sorted(range(queries), key=lambda i: (-row[i], i)) for row in back]
    position = [[order.index(i) for i in range(queries)] for order in rank]
    orders, scores = [], []
    for q in range(queries):
        order = sorted(range(size), key=lambda c: (-s[q][c], c))
        top = [c for c in order[:k] if s[q][c] != filler]
        by_reverse = sorted(top, key=lambda c: position[c][q])  # sorted() keeps the forward order of equal ones
        score = {}
        for r, c in enumerate(top):
            column = [s[i][c] for i in range(queries) if s[i][c] != filler]
            if significance == 'ratio':
                p_s = s[q][c] / (max(sum(column), 0.01 * sum(map(abs, column))) or 1.0)
            else:
                p_s = math.exp(s[q][c]) / sum(map(math.exp, column)) if significance == 'softmax' else 0.0
            o = by_reverse.index(c) if reverse == 'ordinal' else position[c][q]
            p_r = math.exp(-decay * (o + 1)) if reverse_top is None or position[c][q] < reverse_top else 0.0
            score[c] = weights[0] * p_s + weights[1] * math.exp(-decay * (r + 1)) + weights[2] * p_r
        orders.append(sorted(top, key=lambda c: (-score[c], c)) + [c for c in order if c not in score])
        scores.append(score)
    return orders, scores


def assert_same(out, expected, atol=1e-12):
    """Equal scores of the candidates, everything else below them, and the same order (but for near-equal scores)."""
    assert out.isfinite().all()
    for row, order, score in zip(out.double(), *expected, strict=True):
        top = list(score)
        torch.testing.assert_close(row[top], torch.tensor(list(score.values())).double(), atol=atol, rtol=1e-6)
        rest = order[len(top) :]
        if rest and top:
            assert row[rest].max() < row[top].min()
        assert row.argsort(descending=True, stable=True).tolist()[len(top) :] == rest
        ranked = row[order[: len(top)]]
        assert (ranked[1:] <= ranked[:-1] + atol).all()


def matrix(kind, shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    s = torch.rand(shape, generator=g, dtype=torch.float64)
    if kind == 'tied':
        return (s * 3).round()
    if kind == 'signed':
        return 2 * s - 1
    if kind == 'constant':
        return torch.full(shape, 0.5, dtype=torch.float64)
    if kind == 'duplicated':
        half = (shape[0] + 1) // 2
        return s[:half].repeat(2, 1)[: shape[0]]
    return s


@pytest.fixture(params=[None, 1, 40], ids=['one tile', 'a row a tile', 'small tiles'])
def tiles(request, monkeypatch):
    """The same input in tiles of other sizes."""
    if request.param is not None:
        monkeypatch.setattr(tile_sizes, 'TILE', request.param)
        monkeypatch.setattr(tile_sizes, 'FEATURE_TILE', request.param)
        monkeypatch.setattr(tile_sizes, 'WIDTH', 7)


# what takes long in tiles of one value
LARGER = [pytest.param(shape, marks=pytest.mark.slow) for shape in ((40, 90), (90, 40))]
KINDS = ['random', 'tied', 'signed', 'duplicated', 'constant']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (7, 1), (12, 20), (20, 9)])
@pytest.mark.parametrize('k', [1, 5, 50])
def test_against_the_plain_formula(kind, shape, k, tiles):
    s = matrix(kind, shape)
    assert_same(multivariate_rerank(s, k), slow_mr(s, k))


OPTIONS = [
    dict(reverse='absolute'),
    dict(reverse_top=3),
    dict(reverse_top=0),
    dict(reverse='absolute', reverse_top=2, decay=0.2),
    dict(weights=(1, 0, 2)),
    dict(weights=(-1.0, 0.5, -2.0)),
    dict(significance='off'),
    dict(significance='softmax', weights=(5.0, 1.0, 1.0)),
]


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('kind', ['random', 'tied', 'signed'])
def test_options(options, kind, tiles):
    s = matrix(kind, (15, 25), seed=1)
    assert_same(multivariate_rerank(s, 6, **options), slow_mr(s, 6, **options))


@pytest.mark.parametrize('seed', range(30))
def test_drawn_cases(seed):
    g = torch.Generator().manual_seed(seed)
    queries, size, k, levels = (int(torch.randint(1, high, (), generator=g)) for high in (30, 30, 35, 12))
    s = (torch.randn(queries, size, generator=g) * levels).round() / levels
    assert_same(multivariate_rerank(s, k), slow_mr(s, k), atol=1e-6)
    assert_same(multivariate_rerank(s.t(), k), slow_mr(s.t(), k), atol=1e-6)


def test_tail_zero():
    s = matrix('signed', (10, 30))
    kept, zeroed = multivariate_rerank(s, 4), multivariate_rerank(s, 4, tail='zero')
    inside = s.argsort(dim=1, descending=True).argsort(dim=1) < 4
    assert torch.equal(zeroed[inside], kept[inside])
    assert (zeroed[~inside] == 0).all()


@pytest.mark.parametrize('scale', [1e-42, 1e-3, 1.0, 1e5, 1e30, 3e38])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_tail_keeps_its_order_at_any_scale(scale, dtype):
    s = (matrix('signed', (8, 40)).clamp(-1, 1) * scale).to(dtype)
    s[0, :5] = torch.nextafter(s[0, 5], torch.tensor(torch.inf, dtype=dtype))  # one step apart, and equal to each other
    s[1] = 0.0
    s[1, ::2] = -0.0
    for weights in [(0.3, 1.0, 1.1), (0.0, -1.0, -1.0)]:
        out = multivariate_rerank(s, 4, weights=weights)
        before = s.argsort(dim=1, descending=True, stable=True)
        after = out.argsort(dim=1, descending=True, stable=True)
        assert out.isfinite().all()
        assert torch.equal(after[:, 4:], before[:, 4:])


@pytest.mark.parametrize('options', [dict(reverse_top=1), dict(decay=2000.0), dict(weights=(0, 0, 0))])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_candidates_of_score_zero_stay_above_the_rest(options, dtype):
    s = matrix('random', (6, 9)).to(dtype)
    out = multivariate_rerank(s, 3, **{'weights': (0, 0, 1.0), **options})
    order = s.argsort(dim=1, descending=True)
    lowest = out.gather(1, order[:, :3]).amin(dim=1)
    assert (lowest == 0).any()
    assert (out.gather(1, order[:, 3:]) < lowest[:, None]).all()
    assert torch.equal(out.argsort(dim=1, descending=True, stable=True)[:, 3:], order[:, 3:])


def test_neighbors_around_zero_stay_different():
    tiny = torch.finfo(torch.float32).tiny * torch.finfo(torch.float32).eps  # the smallest number above 0
    s = torch.tensor([[9.0, 2 * tiny, tiny, 0.0, -tiny, -2 * tiny]])
    out = multivariate_rerank(s, 1, weights=(0, 0, 0))
    assert (out[0, 1:] < out[0, :-1]).all()


@pytest.mark.parametrize('function', [multivariate_rerank, product_rerank])
def test_similarities_near_the_largest_there_are(function):
    s = matrix('random', (6, 8)).float() * 3e38
    out = function(s, 2)
    order = s.argsort(dim=1, descending=True)
    assert torch.equal(out.argsort(dim=1, descending=True, stable=True)[:, 2:], order[:, 2:])
    assert (out.gather(1, order[:, 2:]).amax(1) < out.gather(1, order[:, :2]).amin(1)).all()


def test_column_sums_do_not_overflow():
    s = matrix('random', (6, 8)).float() * 3e38
    options = dict(k=8, weights=(1.0, 0.0, 0.0))
    torch.testing.assert_close(multivariate_rerank(s, **options), multivariate_rerank(s.double(), **options).float())


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_whole_numbers(dtype):
    s = (matrix('random', (6, 9)) * 5).round().to(dtype)
    assert_same(multivariate_rerank(s, 3), slow_mr(s, 3), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_a_filler_as_the_matrix_holds_it(dtype):
    s = matrix('random', (5, 8)).to(dtype)
    s[:, ::2] = -9999.0  # not a number of half precision
    out = multivariate_rerank(s, 6, filler=-9999.0)
    assert (out[:, ::2].amax(1) < out[:, 1::2].amin(1)).all()
    assert_same(out, slow_mr(s, 6, filler=s[0, 0].item()), atol=1e-6)


@pytest.mark.parametrize('kind', ['signed', 'tied'])
def test_pairs_that_were_not_scored(kind, tiles):
    s, back = matrix(kind, (9, 14)), matrix(kind, (14, 9), seed=1)
    s[s.argsort(dim=1).argsort(dim=1) < 9] = -100.0  # five scored captions an image, as a second stage leaves them
    s[3] = -100.0
    back[back.argsort(dim=1).argsort(dim=1) < 4] = -100.0
    out = multivariate_rerank(s, 8, reverse_similarity=back, filler=-100.0)
    assert_same(out, slow_mr(s, 8, backward=back, filler=-100.0))
    for function in (product_rerank, reverse_rank_rerank):
        out = function(s, 8, reverse_similarity=back, filler=-100.0)
        scored = s != -100.0
        for row, mask in zip(out, scored, strict=True):
            assert not mask.any() or row[mask].min() > row[~mask].max()
    zeroed = multivariate_rerank(s, 8, reverse_similarity=back, filler=-100.0, tail='zero')
    assert (zeroed[s == -100.0] == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kinds_of_numbers(dtype):
    s = matrix('random', (6, 9)).to(dtype)
    out = multivariate_rerank(s, 3)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same(out, slow_mr(s, 3), atol=1e-6)


def test_numpy_and_input_is_left_alone():
    s = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    before = s.copy()
    assert torch.equal(multivariate_rerank(s, 3), multivariate_rerank(torch.from_numpy(s), 3))
    np.testing.assert_array_equal(s, before)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('function', [multivariate_rerank, product_rerank])
def test_tensors_are_left_alone(function, dtype):
    s = matrix('signed', (7, 9)).to(dtype)
    for similarity in (s, s.t()):
        before = similarity.clone()
        function(similarity, 3)
        assert torch.equal(similarity, before)


def test_equal_values_across_many_groups_and_tiles(monkeypatch):
    """Rows wide enough for a bound from groups of columns, most of them tied at the border, in one tile and in many."""
    g = torch.Generator().manual_seed(0)
    s = torch.randint(4, (30, 600), generator=g).double()
    s[::2] += torch.rand(15, 600, generator=g, dtype=torch.float64)
    for similarity in (s, s.t(), s.float(), s.t().float()):
        expected = slow_mr(similarity, 5)
        for size in (1 << 19, 2000):
            monkeypatch.setattr(tile_sizes, 'TILE', size)
            assert_same(multivariate_rerank(similarity, 5), expected, atol=1e-6)


@pytest.mark.filterwarnings('error')
def test_read_only_and_reversed_arrays():
    s = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    expected = multivariate_rerank(s[::-1, ::-1].copy(), 3)
    s.flags.writeable = False
    assert torch.equal(multivariate_rerank(s[::-1, ::-1], 3), expected)
    assert torch.equal(multivariate_rerank(s, 3), multivariate_rerank(torch.tensor(s), 3))


@pytest.mark.parametrize('column', [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [-0.5, -0.2, -0.1]])
def test_column_sums_near_zero_or_negative(column):
    s = torch.tensor([[0.3, 0.1], [0.2, 0.5], [0.1, 0.4]])
    s[:, 0] = torch.tensor(column)
    out = multivariate_rerank(s, 2, weights=(1.0, 0.0, 0.0))
    assert out.isfinite().all()
    assert torch.equal(out[:, 0].sign(), s[:, 0].sign())  # no sign flips
    assert torch.equal(out[:, 0].argsort(), s[:, 0].argsort())


def test_softmax_significance():
    s = matrix('signed', (5, 4)).float()
    out = multivariate_rerank(s, 4, weights=(1.0, 0.0, 0.0), significance='softmax')
    torch.testing.assert_close(out, s.softmax(0))


def test_one_query_changes_nothing():
    s = matrix('random', (1, 12))
    assert torch.equal(multivariate_rerank(s, 5).argsort(descending=True), s.argsort(descending=True))


def test_other_direction_that_is_no_transpose():
    s, back = matrix('random', (6, 8)), matrix('random', (8, 6), seed=1)
    out = reverse_rank_rerank(s, 8, reverse_similarity=back)
    for q in range(6):
        position = [(back[c] > back[c, q]).sum().item() for c in range(8)]
        forward = s[q].argsort(descending=True).argsort().tolist()
        expected = sorted(range(8), key=lambda c: (position[c], forward[c]))
        assert out[q].argsort(descending=True).tolist() == expected


def test_product():
    s = matrix('random', (6, 8))
    out = product_rerank(s, 8, decay=0.1)
    mr = multivariate_rerank(s, 8, weights=(0, 0, 1), decay=0.1)  # exp(-0.1 (o + 1))
    forward = torch.exp(-0.1 * (s.argsort(dim=1, descending=True).argsort(dim=1) + 1))
    torch.testing.assert_close(out, s * mr * forward)


@pytest.mark.parametrize(('dtype', 'large'), [(torch.float32, 3e38), (torch.float64, 1.7e308)])
def test_product_of_numbers_near_the_largest(dtype, large):
    s = torch.tensor([[large, 1.0, 2.0], [1.0, 2.0, 3.0]], dtype=dtype)
    assert product_rerank(s).isfinite().all()
    s[0, 1] = -large
    with pytest.raises(ValueError, match=r'similarities are as large as .*, expected .* numbers of torch.float'):
        product_rerank(s)


@pytest.mark.parametrize('function', [multivariate_rerank, reverse_rank_rerank, product_rerank])
def test_bad_input(function):
    s = torch.rand(4, 5)
    s[2, 3] = float('nan')
    with pytest.raises(ValueError, match=r'1 of 20 .* row 2, column 3'):
        function(s)
    with pytest.raises(ValueError, match='k is 0'):
        function(torch.rand(2, 2), k=0)
    with pytest.raises(ValueError, match="tail is 'drop'"):
        function(torch.rand(2, 2), tail='drop')
    with pytest.raises(ValueError, match=r'shape \(3,\)'):
        function(torch.rand(3))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights=(1, 2)), 'weights is'),
        (dict(weights=(1, 2, float('nan'))), 'weights is'),
        (dict(weights=None), 'weights is None'),
        (dict(weights=(1e39, 0, 0)), 'weights is'),
        (dict(filler=float('nan')), 'filler is nan'),
        (dict(filler=1.0), 'filler is 1.0, but a pair that was scored has .* in similarity'),
        (
            dict(filler=-1.0, reverse_similarity=torch.full((3, 2), -2.0)),
            'filler is -1.0, but a pair that was scored has -2.0 in reverse_similarity',
        ),
        (dict(reverse_similarity=torch.rand(3, 2) + 1j), 'complex64'),
        (dict(decay=float('inf')), 'decay is inf'),
        (dict(decay=-0.1), 'decay is -0.1'),
        (dict(decay='a'), "decay is 'a'"),
        (dict(reverse_top=-1), 'reverse_top is -1'),
        (dict(k=2.5), 'k is 2.5'),
        (dict(reverse='up'), "reverse is 'up'"),
        (dict(significance='sum'), "significance is 'sum'"),
        (dict(reverse_similarity=torch.rand(2, 3)), r'\(3, 2\).*got \(2, 3\)'),
        (dict(reverse_similarity=torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, torch.inf]])), '1 of 6 .*row 2, column 1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        multivariate_rerank(torch.rand(2, 3), **options)


def features(queries, size, width=16, seed=0):
    """Features with some structure, some of them equal; multiples of 1/8, so that products have no rounding."""
    g = torch.Generator().manual_seed(seed)
    gallery = torch.randn(size, width, generator=g, dtype=torch.float64)
    owner = torch.randint(size, (queries,), generator=g)
    query = gallery[owner] + 0.7 * torch.randn(queries, width, generator=g, dtype=torch.float64)
    gallery[-1] = gallery[0]
    query[-1] = query[0]
    return (query * 8).round() / 8, (gallery * 8).round() / 8


@pytest.mark.parametrize('shape', [(1, 1), (1, 12), (12, 1), (16, 30), (30, 16), *LARGER])
@pytest.mark.parametrize('options', [{}, *OPTIONS])
def test_from_features_equals_the_matrix(shape, options, tiles):
    query, gallery = features(*shape)
    similarity = query @ gallery.t()
    for both in (False, True):
        results = multivariate_rerank_from_features(query, gallery, 8, **options, both=both)
        results = results if both else (results,)
        assert len(results) == 1 + both
        for (index, score), s in zip(results, (similarity, similarity.t()), strict=False):
            expected, order = multivariate_rerank(s, 8, **options).sort(dim=1, descending=True, stable=True)
            assert index.shape == score.shape == (len(s), min(8, s.shape[1]))
            torch.testing.assert_close(score, expected[:, :8])
            if options.get('significance') != 'softmax':  # its own rounding may part equal scores
                assert torch.equal(index, order[:, :8])


def test_from_features_of_opposite_directions_need_the_guard():
    query, gallery = features(30, 20)
    query = torch.cat([query, -query])  # every column sum is zero but for rounding
    index, score = multivariate_rerank_from_features(query, gallery, 5)
    expected = multivariate_rerank(query @ gallery.t(), 5).sort(dim=1, descending=True)
    assert score.isfinite().all()
    torch.testing.assert_close(score, expected.values[:, :5], atol=1e-9, rtol=1e-6)


def test_from_features_takes_halves_and_arrays():
    query, gallery = features(20, 30)
    index, score = multivariate_rerank_from_features(query.half(), gallery.half(), 5)
    assert score.dtype == torch.float32
    again = multivariate_rerank_from_features(query.half().numpy(), gallery.half().numpy(), 5)
    assert torch.equal(index, again.indices)


@pytest.mark.parametrize(
    ('query', 'gallery', 'message'),
    [
        (torch.rand(3), torch.rand(2, 3), r'query_feats \(n, D\) of real values, got shape \(3,\)'),
        (torch.rand(3, 4), torch.rand(2, 3), 'differ in width or device: 4 on cpu, 3 on cpu'),
        (torch.rand(3, 4), torch.full((2, 4), torch.nan), '8 of 8 values of gallery_feats .* row 0, column 0'),
        (torch.rand(3, 4), torch.rand(0, 4), 'gallery_feats'),
        (torch.full((3, 4), 1e25), torch.full((2, 4), 1e25), '6 of 6 similarities are NaN or infinite'),
    ],
)
def test_bad_features(query, gallery, message):
    with pytest.raises(ValueError, match=message):
        multivariate_rerank_from_features(query, gallery)
