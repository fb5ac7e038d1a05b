"""Ranks from candidates equal those of the re-ranked matrix."""

from functools import partial

import pytest
import torch

from galr_mm.functional import multivariate_scores, product_scores, rescore, retrieval_ranks
from tests.test_functional.test_rerank import KINDS, OPTIONS, matrix

FORMULAS = {
    'mr': multivariate_scores,
    'mr, float32 ties': partial(multivariate_scores, weights=(1e-9, 0.0, 1.0)),  # the first term is lost to rounding
    'all zero': partial(multivariate_scores, weights=(0.0, 0.0, 0.0)),
    'negative': partial(multivariate_scores, weights=(-1.0, -0.5, -2.0)),
    'mixed signs': lambda candidates: multivariate_scores(candidates) - 1.3,
    'negative similarity': lambda candidates: -candidates.similarity.double(),
    'rounded': lambda candidates: (3 * multivariate_scores(candidates)).round() - 4,
    'product': product_scores,
}


def check(s, k, formula, tail, back=None, filler=None, significance='ratio', seed=0):
    rescored = rescore(s, k, formula, significance, tail, back, filler)
    out = rescored.matrix()
    queries = torch.arange(0, len(s), 2)
    assert torch.equal(rescored.rows(queries), out[queries])
    g = torch.Generator().manual_seed(seed)
    for density in (0.05, 0.3, 1.0):
        positives = torch.rand(s.shape, generator=g) < density
        got = rescored.ranks(positives, retrieval_ranks(rescored.similarity, positives))
        assert torch.equal(got, retrieval_ranks(out, positives))


@pytest.mark.parametrize('tail', ['keep', 'zero'])
@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
def test_against_the_matrix(kind, formula, tail, dtype):
    for shape in [(1, 1), (1, 7), (7, 1), (12, 20), (20, 9)]:
        for k in (1, 5, 50):
            check(matrix(kind, shape).to(dtype), k, FORMULAS[formula], tail)


@pytest.mark.parametrize('tail', ['keep', 'zero'])
@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('kind', ['random', 'tied', 'signed'])
def test_options(kind, options, tail):
    formula = partial(multivariate_scores, **{n: v for n, v in options.items() if n != 'significance'})
    s = matrix(kind, (15, 25), seed=1)
    check(s, 6, formula, tail, significance=options.get('significance', 'ratio'))


@pytest.mark.parametrize('tail', ['keep', 'zero'])
@pytest.mark.parametrize('formula', FORMULAS)
@pytest.mark.parametrize('kind', ['signed', 'tied'])
def test_pairs_that_were_not_scored(kind, formula, tail):
    s, back = matrix(kind, (9, 14)), matrix(kind, (14, 9), seed=1)
    s[s.argsort(dim=1).argsort(dim=1) < 9] = -100.0
    s[3] = -100.0
    back[back.argsort(dim=1).argsort(dim=1) < 4] = -100.0
    for k in (1, 3, 8, 14, 20):
        check(s, k, FORMULAS[formula], tail, back, filler=-100.0)


@pytest.mark.parametrize('tail', ['keep', 'zero'])
@pytest.mark.parametrize('seed', range(20))
def test_drawn_cases(seed, tail):
    g = torch.Generator().manual_seed(seed)
    queries, size, k, levels = (int(torch.randint(1, high, (), generator=g)) for high in (30, 30, 35, 12))
    s = (torch.randn(queries, size, generator=g) * levels).round() / levels
    for formula in FORMULAS.values():
        check(s, k, formula, tail, seed=seed)


@pytest.mark.parametrize('scale', [1e-42, 1e5, 3e38])
def test_at_any_scale(scale):
    s = (matrix('signed', (8, 40)).clamp(-1, 1) * scale).float()
    s[0, :5] = torch.nextafter(s[0, 5], torch.tensor(torch.inf))
    s[1] = 0.0
    s[1, ::2] = -0.0
    for formula in ('mr', 'negative', 'all zero'):
        check(s, 4, FORMULAS[formula], 'keep')


def test_candidates_are_cut_as_they_would_have_been_found():
    s = matrix('tied', (12, 20))
    many, few = rescore(s, 9, multivariate_scores), rescore(s, 4, multivariate_scores)
    cut = many.candidates.first(4)
    for name in ('index', 'similarity', 'significance', 'reverse'):
        assert torch.equal(getattr(cut, name), getattr(few.candidates, name))
