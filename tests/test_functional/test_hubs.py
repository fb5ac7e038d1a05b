"""Dual softmax, querybank normalization and CSLS against their papers' formulas in plain loops."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from galr_mm.functional import (
    CSLS,
    BankReranker,
    DualSoftmax,
    QueryBankNorm,
    correct_hubs,
    correct_hubs_from_features,
    csls_rerank,
    dual_softmax_rerank,
    multivariate_rerank,
    querybank_rerank,
)
from tests.test_functional.test_rerank import KINDS, LARGER, features, matrix, tiles  # noqa: F401  a fixture

SHAPES = [(1, 1), (1, 7), (7, 1), (12, 20), (20, 9)]


def slow_inverted_softmax(s, bank, scale):
    """exp(beta S[q][c]) over the sum of exp(beta B[b][c]) over the queries b of the bank."""
    return [
        [math.exp(scale * value) / sum(math.exp(scale * row[c]) for row in bank) for c, value in enumerate(query)]
        for query in s
    ]


def slow_dsl(s, scale, bank=None):
    """Similarity times its prior, the softmax over queries."""
    s = s.tolist()
    prior = slow_inverted_softmax(s, s if bank is None else bank.tolist(), scale)
    return [[value * p for value, p in zip(*rows, strict=True)] for rows in zip(s, prior, strict=True)]


def slow_qbnorm(s, bank, scale, dynamic=False):
    """Querybank normalization; the dynamic one leaves queries whose best item is not the best of a bank's query."""
    s, bank = s.tolist(), bank.tolist()
    scores = slow_inverted_softmax(s, bank, scale)
    if dynamic:
        activated = {row.index(max(row)) for row in bank}
        scores = [new if old.index(max(old)) in activated else old for old, new in zip(s, scores, strict=True)]
    return scores


def slow_csls(s, k, bank=None):
    """Twice the similarity less the mean similarity of the k nearest on both sides."""
    s = s.tolist()
    bank = s if bank is None else bank.tolist()

    def mean(values):
        nearest = sorted(values, reverse=True)[:k]
        return sum(nearest) / len(nearest)

    return [[2 * value - mean(query) - mean([row[c] for row in bank]) for c, value in enumerate(query)] for query in s]


def assert_scores(out, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected, atol=1e-14, rtol=1e-11)


METHODS = [
    (DualSoftmax(scale=1.0), lambda s, bank: slow_dsl(s, 1.0, bank)),
    (DualSoftmax(scale=30.0), lambda s, bank: slow_dsl(s, 30.0, bank)),
    (QueryBankNorm(scale=30.0), lambda s, bank: slow_qbnorm(s, bank, 30.0)),
    (QueryBankNorm(scale=5.0, dynamic=True), lambda s, bank: slow_qbnorm(s, bank, 5.0, True)),
    (CSLS(k=1), lambda s, bank: slow_csls(s, 1, bank)),
    (CSLS(k=3), lambda s, bank: slow_csls(s, 3, bank)),
    (CSLS(k=50), lambda s, bank: slow_csls(s, 50, bank)),
]
methods = pytest.mark.parametrize(('correction', 'slow'), METHODS, ids=[repr(c) for c, _ in METHODS])


@methods
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', SHAPES)
def test_against_the_plain_formula(correction, slow, kind, shape, tiles):  # noqa: F811
    s = matrix(kind, shape)
    if not correction.needs_bank:
        assert_scores(correct_hubs(s, correction), slow(s, None))
    bank = matrix(kind, (15, shape[1]), seed=1)
    assert_scores(correct_hubs(s, correction, bank), slow(s, bank))
    # the bank may be the query set
    assert_scores(correct_hubs(s, correction, s), slow(s, s))


def test_the_functions_are_the_corrections():
    s, bank = matrix('signed', (9, 14)), matrix('signed', (6, 14), seed=1)
    assert torch.equal(dual_softmax_rerank(s, scale=7.0), correct_hubs(s, DualSoftmax(7.0)))
    assert torch.equal(dual_softmax_rerank(s, 7.0, bank), correct_hubs(s, DualSoftmax(7.0), bank))
    assert torch.equal(querybank_rerank(s, bank, scale=7.0), correct_hubs(s, QueryBankNorm(7.0), bank))
    assert torch.equal(querybank_rerank(s, bank, 7.0, True), correct_hubs(s, QueryBankNorm(7.0, True), bank))
    assert torch.equal(csls_rerank(s, k=4), correct_hubs(s, CSLS(4)))
    assert torch.equal(csls_rerank(s, 4, bank), correct_hubs(s, CSLS(4), bank))


@pytest.mark.parametrize('scale', [0.01, 10.0, 1000.0, 1e6, 1e12, 1e30, 10**30])
@pytest.mark.parametrize('kind', ['random', 'signed', 'tied'])
def test_any_scale_keeps_the_exact_order(kind, scale):
    """The formula in exact logarithms; exponentials would end at zero or infinity."""
    s, bank = matrix(kind, (8, 13)), matrix(kind, (5, 13), seed=1) / 2
    beta = Fraction(scale)

    def logarithm(value, column):
        """Of exp(beta S) over the sum of exponentials of a column."""
        top = max(column)
        total = sum(math.exp(beta * (Fraction(other) - Fraction(top))) for other in column)
        return float(beta * (Fraction(value) - Fraction(top))) - math.log(total)

    def key_dsl(value, exponent):
        """S times the prior: by sign, then by size."""
        sign = (value > 0) - (value < 0)
        return sign, sign and sign * (exponent + math.log(abs(value)))

    for out, rows, key in (
        (querybank_rerank(s, bank, scale), bank, lambda value, exponent: (0, exponent)),
        (dual_softmax_rerank(s, scale), s, key_dsl),
    ):
        assert out.isfinite().all()
        columns = rows.t().tolist()
        for scores, row in zip(out.tolist(), s.tolist(), strict=True):
            keys = [key(value, logarithm(value, column)) for value, column in zip(row, columns, strict=True)]
            order = sorted(range(len(row)), key=lambda c: keys[c])
            for low, high in itertools.pairwise(order):
                same_sign = keys[low][0] == keys[high][0]
                if not same_sign or keys[high][1] - keys[low][1] > 1e-9 * (1 + abs(keys[high][1])) + 1e-15 * scale:
                    assert scores[low] < scores[high]


@pytest.mark.parametrize('correction', [c for c, _ in METHODS], ids=repr)
def test_equal_items_stay_tied(correction):
    """Copies of a gallery item get one score, so that the lower index comes first."""
    s, bank = matrix('random', (40, 37)).float(), matrix('random', (60, 37), seed=1).float()
    s, bank = s.repeat(1, 3), bank.repeat(1, 3)
    out = correct_hubs(s, correction, bank)
    assert torch.equal(out[:, :37], out[:, 37:74])
    assert torch.equal(out[:, :37], out[:, 74:])


@pytest.mark.parametrize('k', [1, 4, 99])
def test_csls_of_the_transpose(k):
    s = matrix('signed', (9, 14))
    torch.testing.assert_close(csls_rerank(s.t(), k), csls_rerank(s, k).t(), atol=1e-15, rtol=1e-12)


def test_one_query_alone():
    s = matrix('random', (1, 12))
    for correction in (DualSoftmax(), CSLS()):  # a softmax of one query is 1; a column has one neighbor, the query
        order = correct_hubs(s, correction).argsort(descending=True, stable=True)
        if isinstance(correction, DualSoftmax):
            assert torch.equal(order, s.argsort(descending=True, stable=True))
        else:
            torch.testing.assert_close(correct_hubs(s, correction), (s - s.topk(10).values.mean()))


def test_a_large_scale_asks_who_wants_the_item_most():
    s = torch.tensor([[0.5, 0.75, 0.25], [0.25, 1.0, 0.5]])
    assert dual_softmax_rerank(s, scale=1e5).argsort(dim=1, descending=True).tolist() == [[0, 1, 2], [1, 2, 0]]
    assert dual_softmax_rerank(s, scale=1e5).count_nonzero() == 6


def test_dynamic_leaves_what_the_bank_does_not_want():
    s = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.2, 0.9], [0.7, 0.7, 0.1]])  # of equal ones the first: item 0
    bank = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1]])
    out, full = querybank_rerank(s, bank, 10.0, dynamic=True), querybank_rerank(s, bank, 10.0)
    assert torch.equal(out[[0, 2]], full[[0, 2]])
    assert torch.equal(out[1], s[1].double())


@methods
@pytest.mark.parametrize('shape', [(1, 1), (1, 12), (12, 1), (16, 30), (30, 16), *LARGER])
def test_from_features_equals_the_matrix(correction, slow, shape, tiles):  # noqa: F811
    query, gallery = (feats / 8 for feats in features(*shape))
    bank, _ = (feats / 8 for feats in features(25, shape[1], seed=0))
    for bank_feats in (bank,) if correction.needs_bank else (None, bank, query):
        of_bank = None if bank_feats is None else bank_feats @ gallery.t()
        index, score = correct_hubs_from_features(query, gallery, correction, top=8, bank_feats=bank_feats)
        expected, order = correct_hubs(query @ gallery.t(), correction, of_bank).sort(
            dim=1, descending=True, stable=True
        )
        assert index.shape == score.shape == (len(query), min(8, len(gallery)))
        torch.testing.assert_close(score, expected[:, :8], atol=1e-12, rtol=1e-9)
        assert torch.equal(index, order[:, :8])


@methods
def test_new_queries_one_by_one(correction, slow):
    query, gallery = (feats / 8 for feats in features(20, 30))
    bank, _ = (feats / 8 for feats in features(25, 30))
    rerank = BankReranker(bank, gallery, correction, top=6)
    index, score = correct_hubs_from_features(query, gallery, correction, top=6, bank_feats=bank)
    together = rerank(query)
    assert torch.equal(together.indices, index)
    for feats, i, s in zip(query, index, score, strict=True):
        alone = rerank(feats.numpy())
        assert torch.equal(alone.indices, i)
        torch.testing.assert_close(alone.scores, s, atol=1e-12, rtol=1e-9)
    # queries of the bank get what the whole set gives
    if not correction.needs_bank:
        index, score = correct_hubs_from_features(bank, gallery, correction, top=6)
        torch.testing.assert_close(rerank(bank).scores, score, atol=1e-12, rtol=1e-9)
        assert torch.equal(rerank(bank).indices, index)


@pytest.mark.parametrize('correction', [c for c, _ in METHODS], ids=repr)
@pytest.mark.parametrize('filler', [-100.0, 0.0])
def test_pairs_that_were_not_scored(correction, filler, tiles):  # noqa: F811
    s = matrix('random', (9, 14)) + 0.1
    scored = s > 0.5
    scored[3] = False
    scored[:, 5] = False
    bank = matrix('random', (6, 14), seed=1)
    out = correct_hubs(s.masked_fill(~scored, filler), correction, bank if correction.needs_bank else None, filler)
    assert out.isfinite().all()
    for row, mask in zip(out, scored, strict=True):
        assert not mask.any() or row[mask].min() > row[~mask].max()
    if isinstance(correction, DualSoftmax):
        prior = (s.masked_fill(~scored, -torch.inf) * correction.scale).softmax(0)
        torch.testing.assert_close(out[scored], (s * prior)[scored])


@pytest.mark.parametrize('correction', [c for c, _ in METHODS], ids=repr)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('bank_dtype', [torch.bfloat16, torch.float32, torch.float64])
def test_a_filler_as_each_matrix_holds_it(correction, dtype, bank_dtype):
    s, bank = matrix('random', (5, 8)).bfloat16(), matrix('random', (6, 8), seed=1).bfloat16()
    unscored = torch.rand(6, 8, generator=torch.Generator().manual_seed(2)) < 0.4

    def filled(filler, first, second):
        return s.to(first).masked_fill(unscored[:5], filler), bank.to(second).masked_fill(unscored, filler)

    own, other = filled(-0.1, dtype, bank_dtype)  # -0.1 is not a number of any of the types, -1 is one of all
    expected, same = filled(-1.0, torch.float64, torch.float64)
    out, expected = correct_hubs(own, correction, other, -0.1), correct_hubs(expected, correction, same, -1.0)
    torch.testing.assert_close(out[~unscored[:5]], expected[~unscored[:5]])
    with pytest.raises(ValueError, match=r'filler is -0\.1\d*, but a pair that was scored has -0\.5 in bank'):
        correct_hubs(own, correction, other.masked_fill(~unscored, -0.5), -0.1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_kinds_of_numbers(dtype):
    s = (matrix('random', (6, 9)) * (5 if dtype == torch.int64 else 1)).to(dtype)
    assert_scores(dual_softmax_rerank(s, 3.0), slow_dsl(s.double(), 3.0))
    assert_scores(csls_rerank(s, 3), slow_csls(s.double(), 3))
    assert_scores(querybank_rerank(s, s[:4], 3.0), slow_qbnorm(s.double(), s[:4].double(), 3.0))


@pytest.mark.filterwarnings('error')
def test_numpy_and_input_is_left_alone():
    s = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    before = s.copy()
    s.flags.writeable = False
    assert torch.equal(querybank_rerank(s[::-1], s), querybank_rerank(torch.tensor(before[::-1].copy()), before))
    np.testing.assert_array_equal(s, before)


def test_single_precision_features():
    torch.manual_seed(0)
    query, gallery = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1) for n in (500, 300))
    scores = correct_hubs_from_features(query, gallery, DualSoftmax(50.0), top=10).scores
    expected = dual_softmax_rerank(query @ gallery.t(), 50.0).topk(10).values
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0)


def test_it_repairs_hubs():
    """As the multivariate rerank, on captions with a bias."""
    torch.manual_seed(0)
    own = torch.eye(100)
    s = own + 0.4 * torch.randn(100, 100) + 0.5 * torch.randn(100)
    found = (s.argmax(1) == torch.arange(100)).sum()
    for scores in (dual_softmax_rerank(s, 5.0), csls_rerank(s), querybank_rerank(s, s, 5.0), multivariate_rerank(s)):
        assert (scores.argmax(1) == torch.arange(100)).sum() > found + 5


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda s: dual_softmax_rerank(s, scale=0), 'scale is 0, expected a finite number above 0'),
        (lambda s: dual_softmax_rerank(s, scale=float('inf')), 'scale is inf'),
        (lambda s: dual_softmax_rerank(s, scale=10**400), 'scale is 1000'),
        (lambda s: querybank_rerank(s, s, scale='a'), "scale is 'a'"),
        (lambda s: querybank_rerank(s, s, dynamic=1), 'dynamic is 1, expected True or False'),
        (lambda s: querybank_rerank(s, None), 'QueryBankNorm.* needs a bank'),
        (lambda s: querybank_rerank(s, s.t()), r'expected a bank \(P, 5\) beside similarity \(4, 5\), got \(5, 4\)'),
        (lambda s: querybank_rerank(s, s[0]), r'shape \(5,\)'),
        (lambda s: csls_rerank(s, k=0), 'k is 0'),
        (lambda s: csls_rerank(s, k=2.5), 'k is 2.5'),
        (lambda s: csls_rerank(s[:, :0]), r'shape \(4, 0\)'),
        (lambda s: csls_rerank(s, filler=0.9), 'filler is .*, but a pair that was scored has'),
        (lambda s: csls_rerank(s, filler=float('nan')), 'filler is nan'),
        (
            lambda s: dual_softmax_rerank(s.double() * 1e307, scale=1e3),
            r'scores of DualSoftmax\(scale=1000.0\) are NaN',
        ),
        (lambda s: correct_hubs_from_features(s, s, CSLS(), top=0), 'top is 0'),
        (lambda s: correct_hubs_from_features(s, s, 'csls'), "correction is 'csls', expected one such as CSLS"),
        (lambda s: correct_hubs_from_features(s, s, CSLS), 'correction is .*CSLS.*, expected one such as CSLS'),
        (
            lambda s: correct_hubs_from_features(s, s, CSLS(), bank_feats=s[:, :2]),
            'bank_feats and gallery_feats differ',
        ),
        (lambda s: BankReranker(s, s, CSLS())(s[0, :3]), 'query and gallery differ in width'),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(4, 5) + 0.1)


def test_not_a_number():
    s = torch.rand(4, 5)
    s[2, 3] = float('nan')
    for call in (dual_softmax_rerank, csls_rerank, lambda s: querybank_rerank(torch.rand(3, 5), s)):
        with pytest.raises(ValueError, match=r'1 of 20 .* row 2, column 3'):
            call(s)
