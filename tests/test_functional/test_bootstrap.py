import numpy as np
import pytest
import torch

from galr_mm.functional import paired_bootstrap


def ranks(images, seed, low=0, high=15):
    g = torch.Generator().manual_seed(seed)
    return dict(
        i2t=torch.randint(low, high, (images,), generator=g),
        t2i=torch.randint(low, high, (2 * images,), generator=g),
    )


def owners(images):
    return (torch.arange(2 * images) // 2) == torch.arange(images)[:, None]


def test_against_plain_resampling():
    images, draws = 40, 300
    before, after, positives = ranks(images, 0), ranks(images, 1), owners(images)
    result = paired_bootstrap(before, after, positives, topk=(5,), resamples=draws, seed=3)
    drawn = torch.randint(images, (draws, images), generator=torch.Generator().manual_seed(3))  # the same draws
    changes = {'i2t/R@5': [], 't2i/R@5': [], 'mR': []}
    for row in drawn.tolist():
        rows = {'i2t': row, 't2i': [caption for image in row for caption in (2 * image, 2 * image + 1)]}
        change = [
            100 * sum(int(after[d][q] < 5) - int(before[d][q] < 5) for q in queries) / len(queries)
            for d, queries in rows.items()
        ]
        for name, value in zip(changes, [*change, sum(change) / 2], strict=True):
            changes[name].append(value)
    for name, (_, low, high) in result.items():
        np.testing.assert_allclose([low, high], np.quantile(changes[name], [0.025, 0.975]))
    exact = 100 * ((after['t2i'] < 5).double().mean() - (before['t2i'] < 5).double().mean())
    assert result['t2i/R@5'].difference == pytest.approx(exact.item())


def test_no_change_is_certain():
    before = ranks(20, 0)
    assert all(interval == (0, 0, 0) for interval in paired_bootstrap(before, before, owners(20)).values())


def test_queries_without_an_answer_do_not_count():
    before, after, positives = ranks(20, 0), ranks(20, 1), owners(20)
    expected = paired_bootstrap(before, after, positives)
    for side in (before, after):
        side['t2i'] = torch.cat([side['t2i'], torch.tensor([-1])])
    positives = torch.cat([positives, torch.zeros(20, 1, dtype=torch.bool)], dim=1)
    assert paired_bootstrap(before, after, positives) == expected


def test_bad_input():
    before, positives = ranks(4, 0), owners(4)
    for options in (dict(resamples=0), dict(resamples=2.5), dict(topk=())):
        with pytest.raises(ValueError, match='resamples'):
            paired_bootstrap(before, before, positives, **options)
    none = dict(before, i2t=torch.full((4,), -1))
    with pytest.raises(ValueError, match='i2t has no query'):
        paired_bootstrap(none, none, positives)
    for other in (torch.full((4,), -1), torch.zeros(3)):
        with pytest.raises(ValueError, match='differ in the i2t queries'):
            paired_bootstrap(before, dict(before, i2t=other), positives)


def test_draws_without_a_query_say_nothing():
    positives = torch.tensor([[True], [False], [False], [False]])
    before = dict(i2t=torch.tensor([3, -1, -1, -1]), t2i=torch.tensor([3]))
    after = dict(i2t=torch.tensor([0, -1, -1, -1]), t2i=torch.tensor([0]))
    assert paired_bootstrap(before, after, positives, topk=(1,))['i2t/R@1'] == (100, 100, 100)
