import numpy as np
import pytest

from galr_mm.functional import WindowMean


@pytest.mark.parametrize('seed', range(5))
def test_mean_is_that_of_each_pixel(seed):
    rng = np.random.default_rng(seed)
    height, width, count = 23, 31, (1, 2, 40)[seed % 3]
    left, top = rng.integers(0, width, count), rng.integers(0, height, count)
    right = left + 1 + (rng.random(count) * (width - left)).astype(int)
    bottom = top + 1 + (rng.random(count) * (height - top)).astype(int)
    values = rng.standard_normal(count)
    slow, number = np.zeros((height, width)), np.zeros((height, width))
    for x1, y1, x2, y2, value in zip(left, top, right, bottom, values, strict=True):
        slow[y1:y2, x1:x2] += value
        number[y1:y2, x1:x2] += 1
    mean = WindowMean(np.stack([left, top, right, bottom], axis=1), height, width)
    cells = mean(values)
    assert cells.shape == (len(mean.y_edges) - 1, len(mean.x_edges) - 1)
    full = cells.repeat(np.diff(mean.y_edges), 0).repeat(np.diff(mean.x_edges), 1)
    with np.errstate(invalid='ignore'):
        np.testing.assert_allclose(full, slow / number, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ('windows', 'match'),
    [
        (np.zeros((0, 4), int), 'at least one'),
        (np.zeros(4, int), r'shape \(4,\)'),
        (np.array([[0, 0, 5, 5], [0, 0, 11, 5]]), r'window 1 is \[0, 0, 11, 5\]'),
        (np.array([[0, 0, 5, 9]]), 'inside 10 x 8'),
        (np.array([[-1, 0, 5, 5]]), 'window 0'),
        (np.array([[3, 0, 3, 5]]), 'not empty'),
    ],
    ids=range(6),
)
def test_bad_windows(windows, match):
    with pytest.raises(ValueError, match=match):
        WindowMean(windows, height=8, width=10)


@pytest.mark.parametrize('values', [np.zeros(3), np.zeros((2, 1)), np.array([1, np.nan])], ids=range(3))
def test_bad_values(values):
    with pytest.raises(ValueError, match='a finite value for each of 2 windows'):
        WindowMean(np.array([[0, 0, 5, 5], [2, 2, 9, 8]]), height=8, width=10)(values)
