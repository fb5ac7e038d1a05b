import numpy as np
import pytest
import torch

from galr_mm.functional import bootstrap_over_seeds, mean_and_sd, paired_bootstrap
from galr_mm.functional.bootstrap import _student


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


def test_over_seeds_against_plain_resampling():
    images, draws = 12, 50
    rows = [{s: ranks(images, 10 * row + s) for s in (0, 1, 2)} for row in (0, 1)]
    result = bootstrap_over_seeds(*rows, owners(images), topk=(5,), resamples=draws, seed=3)
    generator = torch.Generator().manual_seed(3)  # the same draws
    drawn_images = torch.randint(images, (draws, images), generator=generator).tolist()
    drawn_seeds = torch.randint(3, (draws, 3), generator=generator).tolist()
    scale = (3 / 2) ** 0.5 * 4.3027 / 1.959964

    def recall(row, seed, picked):
        return 100 * sum(int(row[seed]['i2t'][i] < 5) for i in picked) / len(picked)

    def change(picked):
        return [recall(rows[1], s, picked) - recall(rows[0], s, picked) for s in (0, 1, 2)]

    expected = []
    for picked, seeds in zip(drawn_images, drawn_seeds, strict=True):
        each = change(range(images))
        expected.append(sum(change(picked)) / 3 + scale * (sum(each[s] for s in seeds) - sum(each)) / 3)
    difference, low, high = result['i2t/R@5']
    assert difference == pytest.approx(sum(change(range(images))) / 3)
    np.testing.assert_allclose([low, high], np.quantile(expected, [0.025, 0.975]))


def simulated(generator, images, seeds, seed_sd):
    """Trainings of one configuration: an image is as hard for all of them, a training as good for all images."""
    hard = generator.normal(size=images)

    def training():
        shift = generator.normal(scale=seed_sd)
        values = [np.repeat(hard, n) + generator.normal(scale=0.5, size=n * images) + shift for n in (1, 2)]
        return {d: torch.from_numpy(np.where(v < 0, 0, 9)) for d, v in zip(('i2t', 't2i'), values, strict=True)}

    return [{seed: training() for seed in row} for row in seeds]


@pytest.mark.parametrize(('seeds', 'seed_sd'), [((range(5), range(5)), 0.3), ((range(3), range(4, 8)), 0.1)])
def test_coverage(seeds, seed_sd):
    """Both rows are of one configuration, so the true difference is 0: about 95 % of the intervals hold it."""
    images, repeats = 80, 200
    generator = np.random.default_rng(0)
    covered = dict(both=0, images=0)
    for _ in range(repeats):
        before, after = simulated(generator, images, seeds, seed_sd)
        _, low, high = bootstrap_over_seeds(before, after, owners(images), topk=(1,), resamples=200)['mR']
        covered['both'] += low <= 0 <= high
        one = ({0: before[min(before)]}, {0: after[min(after)]})
        _, low, high = bootstrap_over_seeds(*one, owners(images), topk=(1,), resamples=200)['mR']
        covered['images'] += low <= 0 <= high
    assert 0.91 <= covered['both'] / repeats <= 1
    if seed_sd > 0.2:  # one training each says nothing of others
        assert covered['images'] / repeats < 0.75
        assert covered['both'] / repeats < 0.99


def test_student():
    """Against published tables."""
    for freedom, point in ((1, 12.706), (4, 2.776), (11, 2.201), (20, 2.086), (60, 2.000), (10**6, 1.960)):
        assert _student(freedom) == pytest.approx(point, abs=3e-3)


def test_mean_and_sd():
    assert mean_and_sd([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx((5 / 3) ** 0.5))
    assert np.isnan(mean_and_sd([1.0])[1])
    with pytest.raises(ValueError, match='no values'):
        mean_and_sd([])


def test_bad_rows():
    row = {0: ranks(4, 0)}
    with pytest.raises(ValueError, match='empty'):
        bootstrap_over_seeds({}, row, owners(4))
    with pytest.raises(ValueError, match='differ in the i2t queries'):
        bootstrap_over_seeds(row, {0: ranks(4, 0), 1: ranks(5, 0)}, owners(4))
