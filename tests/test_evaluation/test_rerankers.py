import warnings

import pytest
import torch

from galr_mm.evaluation import (
    CSLSRerank,
    DualSoftmaxRerank,
    MultivariateRerank,
    ProductRerank,
    QueryBankRerank,
    RecallAtK,
    ReverseRankRerank,
    build_rerankers,
    csls_rerank,
    dual_softmax_rerank,
    multivariate_rerank,
    product_rerank,
    querybank_rerank,
    reverse_rank_rerank,
)
from galr_mm.evaluation.sweep import GRIDS, sweep_reranker
from galr_mm.functional import multivariate_rerank_from_features
from galr_mm.functional.rerank.column_statistics import NearZeroSumsWarning
from galr_mm.registry import RERANKERS
from galr_mm.structures import RetrievalScores


@pytest.mark.parametrize('off', [None, 'none', 'None', False, []])
def test_off(off):
    assert build_rerankers(off) == {}


def test_presets_and_their_parameters():
    built = build_rerankers(['mr', 'rr', 'product'], dict(mr=dict(k=20)))
    assert [type(r) for r in built.values()] == [MultivariateRerank, ReverseRankRerank, ProductRerank]
    assert built['mr'].options == {'k': 20}


def test_dict_and_own():
    @RERANKERS.register_module(force=True)
    class Flip:
        def __call__(self, scores):
            return RetrievalScores(-scores.i2t, -scores.t2i, scores.positives)

    built = build_rerankers([dict(type='galr_mm.MultivariateRerank', k=3), dict(type='Flip', prefix='flip')])
    assert list(built) == ['mr', 'flip']
    scores = RetrievalScores.from_matrix(torch.rand(4, 20))
    assert torch.equal(built['flip'](scores).i2t, -scores.i2t)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(KeyError, match=r'foo.*mr, rr, product.*MultivariateRerank'):
        build_rerankers('foo')


@pytest.mark.parametrize('value', [3, True, dict(k=3), [['mr']]])
def test_other_values(value):
    with pytest.raises(ValueError, match='expected a name'):
        build_rerankers(value)


def test_twice():
    with pytest.raises(ValueError, match='twice'):
        build_rerankers(['mr', 'mr'])


def test_unknown_parameter_fails_at_once():
    with pytest.raises(ValueError, match='MultivariateRerank.*kk'):
        build_rerankers('mr', dict(mr=dict(kk=3)))


@pytest.mark.parametrize('options', [dict(k=0), dict(k='abc'), dict(tail='foo'), dict(weights=[1, 2])])
def test_wrong_values_fail_at_once(options):
    with pytest.raises(ValueError, match='MultivariateRerank'):
        build_rerankers('mr', dict(mr=options))


def test_misplaced_parameters_and_prefixes():
    with pytest.raises(KeyError, match='MR'):
        build_rerankers('mr', dict(MR=dict(k=3)))
    for prefix in ('', 'a/b', 'raw'):
        with pytest.raises(ValueError, match='prefix'):
            build_rerankers(dict(type='galr_mm.MultivariateRerank', prefix=prefix))


def test_parameters_of_a_registered_name():
    name = 'galr_mm.MultivariateRerank'
    assert build_rerankers(name, {name: dict(k=3)})[name].options == {'k': 3}


@pytest.mark.parametrize(
    ('reranker', 'function'),
    [
        (MultivariateRerank(k=4), multivariate_rerank),
        (MultivariateRerank(significance='softmax', reverse_top=3, tail='zero'), multivariate_rerank),
        (ReverseRankRerank(k=4, decay=0.1), reverse_rank_rerank),
        (ProductRerank(k=4, reverse='absolute'), product_rerank),
    ],
    ids=lambda value: getattr(value, '__name__', repr(value)),
)
@pytest.mark.parametrize('filler', [None, -100.0])
def test_both_directions(reranker, function, filler):
    s = torch.rand(6, 30)
    t2i = torch.rand(30, 6)
    if filler is not None:
        s[s < 0.3], t2i[t2i < 0.1] = filler, filler
    scores = RetrievalScores(s, t2i, RetrievalScores.from_matrix(s).positives, filler)
    out = reranker(scores)
    assert torch.equal(out.i2t, function(s, reverse_similarity=t2i, filler=filler, **reranker.options))
    assert torch.equal(out.t2i, function(t2i, reverse_similarity=s, filler=filler, **reranker.options))
    ranks = reranker.rescore(scores).ranks
    assert all(torch.equal(ranks[direction], out.ranks[direction]) for direction in ('i2t', 't2i'))


@pytest.mark.parametrize('options', [dict(weights=(1, 1, 1)), dict(significance='ratio'), dict(filler=1.0)])
def test_what_a_re_ranker_fixes_cannot_be_set(options):
    with pytest.raises(ValueError, match=r'ReverseRankRerank got \w+, expected k, decay, tail'):
        ReverseRankRerank(**options)


@pytest.mark.parametrize('rerank_cfg', [['mr'], 5, dict(mr=5), dict(mr='k=3')])
def test_parameters_of_another_kind(rerank_cfg):
    with pytest.raises(ValueError, match='rerank_cfg is'):
        build_rerankers('mr', rerank_cfg)


def scores_with_bank(filler=None):
    """Scores whose directions differ, with similarities of training queries."""
    torch.manual_seed(0)
    s, t2i = torch.rand(6, 30), torch.rand(30, 6)
    if filler is not None:
        s[s < 0.3], t2i[t2i < 0.1] = filler, filler
    positives = RetrievalScores.from_matrix(s).positives
    return RetrievalScores(s, t2i, positives, filler, bank_i2t=torch.rand(9, 30), bank_t2i=torch.rand(40, 6))


@pytest.mark.parametrize(
    ('reranker', 'function'),
    [
        (DualSoftmaxRerank(), dual_softmax_rerank),
        (DualSoftmaxRerank(scale=5.0, bank=True), dual_softmax_rerank),
        (QueryBankRerank(), querybank_rerank),
        (QueryBankRerank(scale=5.0, dynamic=True), querybank_rerank),
        (CSLSRerank(k=3), csls_rerank),
        (CSLSRerank(k=3, bank=True), csls_rerank),
    ],
    ids=lambda value: getattr(value, '__name__', repr(value)),
)
@pytest.mark.parametrize('filler', [None, -100.0])
def test_hubs_of_both_directions(reranker, function, filler):
    scores = scores_with_bank(filler)
    out = reranker(scores)
    options = {name: value for name, value in reranker.options.items() if name != 'bank'}
    i2t_bank = dict(bank=scores.bank_i2t) if reranker.needs_bank else {}
    t2i_bank = dict(bank=scores.bank_t2i) if reranker.needs_bank else {}
    assert torch.equal(out.i2t, function(scores.i2t, **i2t_bank, filler=filler, **options))
    assert torch.equal(out.t2i, function(scores.t2i, **t2i_bank, filler=filler, **options))
    assert torch.equal(out.positives, scores.positives)


def test_presets_of_hub_corrections():
    built = build_rerankers(['dsl', 'qbnorm', 'csls'], dict(dsl=dict(scale=10), csls=dict(k=5, bank=True)))
    assert [type(r) for r in built.values()] == [DualSoftmaxRerank, QueryBankRerank, CSLSRerank]
    assert [r.needs_bank for r in built.values()] == [False, True, True]
    assert repr(built['csls']) == 'CSLSRerank(k=5, bank=True)'


def test_a_missing_bank():
    scores = RetrievalScores.from_matrix(torch.rand(4, 20))
    for reranker in (QueryBankRerank(), CSLSRerank(bank=True)):
        with pytest.raises(ValueError, match=r'Rerank\(.*needs similarities of training queries'):
            reranker(scores)
    with pytest.raises(ValueError, match=r'bank_t2i \(queries, 4\) beside t2i \(20, 4\), got \(3, 20\)'):
        RetrievalScores(scores.i2t, scores.t2i, scores.positives, bank_t2i=torch.rand(3, 20))


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('dsl', dict(k=3), 'DualSoftmaxRerank got k, expected scale, bank'),
        ('dsl', dict(scale=-1), 'DualSoftmaxRerank: scale is -1'),
        ('dsl', dict(bank=5), 'DualSoftmaxRerank: bank is 5'),
        ('qbnorm', dict(bank=True), 'QueryBankRerank got bank, expected scale, dynamic'),
        ('qbnorm', dict(dynamic='yes'), "QueryBankRerank: dynamic is 'yes'"),
        ('csls', dict(k=0), 'CSLSRerank: k is 0'),
    ],
)
def test_wrong_options_of_hub_corrections(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_rerankers(name, {name: options})


@pytest.mark.parametrize('method', list(GRIDS))
def test_every_point_of_a_sweep_is_its_re_ranking(method):
    scores = scores_with_bank()
    raw, points = sweep_reranker(scores, method)
    assert raw == pytest.approx(RecallAtK()(scores.ranks)['mR'])
    assert len(points) == torch.tensor([len(values) for values in GRIDS[method].values()]).prod()
    for options, mean_recall in points[::4]:
        new = build_rerankers(method, {method: options})[method](scores)
        assert mean_recall == pytest.approx(RecallAtK()(new.ranks)['mR'])


def test_sweeps_without_a_grid():
    scores = scores_with_bank()
    with pytest.raises(ValueError, match="'mr' has no grid of its own, expected one of rr, product, dsl, qbnorm, csls"):
        sweep_reranker(scores, 'mr')
    with pytest.raises(ValueError, match='grid is'):
        sweep_reranker(scores, 'dsl', dict(scale=()))
    _, points = sweep_reranker(scores, 'rr', dict(k=(2, 5)), decay=0.1)
    assert [point.options for point in points] == [{'k': 2}, {'k': 5}]


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr('galr_mm.utils.logging._LOGGED', set())
    monkeypatch.setattr('galr_mm.utils.logging.print_log', lambda text, *_: messages.append(text))
    return messages


def test_sums_near_zero_are_said_once(logged):
    """In both directions together; not for similarities that have sums, nor where the term is off."""
    centered = torch.randn(40, 200, generator=torch.Generator().manual_seed(0)) * 0.1
    near_zero, clear = (RetrievalScores.from_matrix(scores) for scores in (centered, centered + 1))
    for options in (dict(significance='off'), dict(significance='softmax'), dict(weights=(0, 1, 1))):
        MultivariateRerank(**options)(near_zero)
    MultivariateRerank()(clear)
    ReverseRankRerank()(near_zero)
    assert logged == []
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        MultivariateRerank(k=5)(near_zero)
        MultivariateRerank(k=5)(near_zero)
    assert len(logged) == 1
    assert "MultivariateRerank(k=5): significance='ratio' divides by sums over queries" in logged[0]
    assert 'rerank_cfg.mr.significance' in logged[0]


@pytest.mark.filterwarnings('always')
def test_the_function_warns_of_sums_near_zero():
    centered = torch.randn(40, 200, generator=torch.Generator().manual_seed(0))
    for call in (
        lambda: multivariate_rerank(centered),
        lambda: multivariate_rerank_from_features(centered, centered - centered.mean(0)),
    ):
        with pytest.warns(NearZeroSumsWarning, match='significance') as caught:
            call()
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        multivariate_rerank(centered + 5)
        multivariate_rerank(centered, weights=(0, 1, 1))


def test_a_weight_of_zero_is_the_term_off():
    scores = torch.rand(30, 150, generator=torch.Generator().manual_seed(0))
    on, off = (multivariate_rerank(scores, k=9, weights=(0, 1, 1.1), significance=s) for s in ('ratio', 'off'))
    assert torch.equal(on, off)
