import pytest
import torch

from galr_mm.functional import QueryBankReranker, multivariate_rerank_from_features, rerank_candidates
from tests.test_functional.test_rerank import OPTIONS, features


@pytest.mark.parametrize('options', [{}, *OPTIONS])
def test_a_query_of_the_bank_gets_the_batch_result(options):
    bank, gallery = features(40, 25)
    rerank = QueryBankReranker(bank, gallery, k=6, **options)
    indices, scores = multivariate_rerank_from_features(bank, gallery, k=6, **options)
    for query, index, score in list(zip(bank, indices, scores, strict=True))[:-1]:  # the last equals the first
        got = rerank(query)
        torch.testing.assert_close(got.scores, score)
        assert torch.equal(got.indices, index)


@pytest.mark.parametrize('options', [{}, *OPTIONS])
def test_a_new_query_counts_as_the_last_of_the_bank(options):
    bank, gallery = features(40, 25)
    query = (bank[0] + bank[1]) / 2
    rerank = QueryBankReranker(bank, gallery, k=6, **options)
    indices, scores = multivariate_rerank_from_features(torch.cat([bank, query[None]]), gallery, k=6, **options)
    for _ in range(2):  # one query leaves nothing behind for the next
        got = rerank(query.numpy())
        torch.testing.assert_close(got.scores, scores[-1])
        assert torch.equal(got.indices, indices[-1])


def test_single_precision_cosines():
    torch.manual_seed(0)
    bank, gallery = (torch.nn.functional.normalize(torch.randn(n, 64), dim=1) for n in (500, 300))
    rerank = QueryBankReranker(bank, gallery, k=20)
    indices, _ = multivariate_rerank_from_features(bank, gallery, k=20)
    assert torch.equal(torch.stack([rerank(query).indices for query in bank]), indices)


def test_the_bank_matters():
    bank, gallery = features(40, 25)
    alone, among = QueryBankReranker(bank[:1], gallery, k=6), QueryBankReranker(bank, gallery, k=6)
    forward = (gallery @ bank[0]).argsort(descending=True, stable=True)[:6]
    assert torch.equal(alone(bank[0]).indices, forward)
    assert any(not torch.equal(alone(q).indices, among(q).indices) for q in bank)


def test_bad_input():
    bank, gallery = features(4, 5)
    rerank = QueryBankReranker(bank, gallery)
    with pytest.raises(ValueError, match='differ in width'):
        rerank(torch.rand(3))
    with pytest.raises(ValueError, match='1 of 16 values of query'):
        rerank(torch.cat([bank[0][:15], torch.tensor([torch.nan], dtype=torch.float64)]))
    with pytest.raises(ValueError, match=r'one query \(D,\), got shape \(4, 16\)'):
        rerank(bank)
    with pytest.raises(ValueError, match='similarities are NaN or infinite'):
        QueryBankReranker(bank.float(), gallery.float() * 1e10, significance='off')(bank[0].float() * 1e35)
    with pytest.raises(ValueError, match='k is 0'):
        QueryBankReranker(bank, gallery, k=0)


@pytest.mark.parametrize('options', [{}, *OPTIONS])
def test_candidates_alone_are_enough(options):
    """Whatever else is in the gallery, for queries of the bank and for new ones."""
    bank, gallery = features(40, 25)
    rerank = QueryBankReranker(bank, gallery, k=6, **options)
    for query in [*bank[:8], (bank[0] + bank[1]) / 2, (bank[3] + bank[4]) / 2]:
        rows = (gallery @ query).sort(descending=True, stable=True).indices[:6].sort().values
        expected, got = rerank(query), rerank_candidates(bank, query, gallery[rows], **options)
        assert torch.equal(rows[got.indices], expected.indices)
        torch.testing.assert_close(got.scores, expected.scores)
    with pytest.raises(ValueError, match=r'expected a bank \(M, 16\) of real values, got shape \(40, 15\)'):
        rerank_candidates(bank[:, :15], bank[0], gallery)
    for value in (torch.nan, torch.inf):
        broken = bank.clone()
        broken[1, 2] = value
        with pytest.raises(ValueError, match='similarities of the bank to the candidates are NaN or infinite'):
            rerank_candidates(broken, bank[0], gallery)
