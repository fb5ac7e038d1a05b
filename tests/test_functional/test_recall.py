import pytest
import torch

from galr_mm.functional import chance_recall_at_k, recall_at_k, retrieval_ranks


def slow_ranks(similarity, positives):
    ranks = []
    for row, right in zip(similarity.tolist(), positives.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        hits = [rank for rank, j in enumerate(order) if right[j]]
        ranks.append(hits[0] if hits else -1)
    return ranks


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('ties', [True, False])
@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (20, 30)])
def test_ranks_against_sorting(seed, ties, shape):
    g = torch.Generator().manual_seed(seed)
    similarity = torch.rand(shape, generator=g)
    if ties:
        similarity = (similarity * 4).round()
    positives = torch.rand(shape, generator=g) < 0.2
    assert retrieval_ranks(similarity, positives).tolist() == slow_ranks(similarity, positives)


def test_all_equal_goes_by_index():
    ranks = retrieval_ranks(torch.zeros(3, 3), torch.eye(3).bool())
    assert ranks.tolist() == [0, 1, 2]


def test_queries_without_answers_do_not_count():
    positives = torch.tensor([[True, False], [False, False]])
    assert recall_at_k(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), positives, (1,)) == {1: 100.0}
    with pytest.raises(ValueError, match='none of the 2 queries'):
        recall_at_k(torch.zeros(2, 2), torch.zeros(2, 2).bool())


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_bad_numbers(bad):
    similarity = torch.zeros(3, 4)
    similarity[1, 2] = similarity[2, 0] = bad
    with pytest.raises(ValueError, match=r'2 of 12 .* row 1, column 2'):
        retrieval_ranks(similarity, torch.ones(3, 4).bool())


def test_chance_is_what_random_scores_give():
    torch.manual_seed(0)
    positives = torch.eye(20).bool().repeat_interleave(5, dim=1)
    expected = chance_recall_at_k(positives, (1, 5))
    values = [recall_at_k(torch.rand(20, 100), positives, (1, 5)) for _ in range(400)]
    for k in (1, 5):
        assert sum(v[k] for v in values) / len(values) == pytest.approx(expected[k], rel=0.1)
    with pytest.raises(ValueError, match='none of the 2 queries'):
        chance_recall_at_k(torch.zeros(2, 2).bool())


def test_top_beyond_the_gallery():
    assert recall_at_k(torch.rand(2, 3), torch.ones(2, 3).bool(), (10,)) == {10: 100.0}
