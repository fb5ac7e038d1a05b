import math

import numpy as np
import pytest
import torch

from galr_mm.evaluation import multivariate_rerank, product_rerank, reverse_rank_rerank


def slow_mr(s, k, weights=(0.3, 1.0, 1.1), decay=0.05, reverse='ordinal', reverse_top=None, tail='keep', off=False):
    """The formula, query by query, in Python floats."""
    s = s.tolist()
    queries, size = len(s), len(s[0])
    k = min(k, size)
    out = [[0.0] * size for _ in range(queries)]
    for q in range(queries):
        order = sorted(range(size), key=lambda c: (-s[q][c], c))
        top = order[:k]
        position = {c: sorted(range(queries), key=lambda i: (-s[i][c], i)).index(q) for c in top}
        by_reverse = sorted(top, key=lambda c: (position[c], top.index(c)))
        for r, c in enumerate(top):
            total = sum(s[i][c] for i in range(queries))
            total = max(total, 0.01 * sum(abs(s[i][c]) for i in range(queries))) or 1.0
            o = by_reverse.index(c) if reverse == 'ordinal' else position[c]
            p_r = math.exp(-decay * (o + 1)) if reverse_top is None or position[c] < reverse_top else 0.0
            p_s = 0.0 if off else s[q][c] / total
            out[q][c] = weights[0] * p_s + weights[1] * math.exp(-decay * (r + 1)) + weights[2] * p_r
        floor = min(out[q][c] for c in top)
        if tail == 'keep':
            for place, c in enumerate(order[k:]):
                out[q][c] = floor - 1 - place
    return torch.tensor(out, dtype=torch.float64)


def matrix(kind, shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    s = torch.rand(shape, generator=g, dtype=torch.float64)
    if kind == 'tied':
        return (s * 3).round()
    if kind == 'signed':
        return 2 * s - 1
    if kind == 'duplicated':
        half = (shape[0] + 1) // 2
        return s[:half].repeat(2, 1)[: shape[0]]
    return s


@pytest.mark.parametrize('kind', ['random', 'tied', 'signed', 'duplicated'])
@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (7, 1), (12, 20), (20, 9)])
@pytest.mark.parametrize('k', [1, 5, 50])
def test_against_the_plain_formula(kind, shape, k):
    s = matrix(kind, shape)
    torch.testing.assert_close(multivariate_rerank(s, k), slow_mr(s, k))


@pytest.mark.parametrize(
    ('options', 'slow'),
    [
        (dict(reverse='absolute'), dict(reverse='absolute')),
        (dict(reverse_top=3), dict(reverse_top=3)),
        (dict(reverse='absolute', reverse_top=2, decay=0.2), dict(reverse='absolute', reverse_top=2, decay=0.2)),
        (dict(tail='zero'), dict(tail='zero')),
        (dict(weights=(1, 0, 2)), dict(weights=(1, 0, 2))),
        (dict(significance='off'), dict(off=True)),
    ],
)
def test_options(options, slow):
    s = matrix('random', (15, 25))
    torch.testing.assert_close(multivariate_rerank(s, 6, **options), slow_mr(s, 6, **slow))


def test_tail_keeps_the_order_below_the_candidates():
    s = matrix('tied', (10, 30))
    out = multivariate_rerank(s, 4)
    before = s.argsort(dim=1, descending=True, stable=True)
    after = out.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(after[:, 4:], before[:, 4:])
    assert torch.equal(after[:, :4].sort().values, before[:, :4].sort().values)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kinds_of_numbers(dtype):
    s = matrix('random', (6, 9)).to(dtype)
    out = multivariate_rerank(s, 3)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out, slow_mr(s.double(), 3).to(out.dtype), atol=1e-5, rtol=1e-5)


def test_numpy_and_input_is_left_alone():
    s = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    before = s.copy()
    assert torch.equal(multivariate_rerank(s, 3), multivariate_rerank(torch.from_numpy(s), 3))
    np.testing.assert_array_equal(s, before)


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
