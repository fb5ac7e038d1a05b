"""The indicators are those of the published script, which made tests/data/selo_published.json."""

import json

import numpy as np
import pytest

from galr_mm.evaluation import semantic_localization_metrics
from galr_mm.evaluation.semantic_localization import _sliding_max, find_peaks
from tests.helpers import ROOT

CASES = json.loads((ROOT / 'tests/data/selo_published.json').read_text())
SQUARE = [(10, 10), (40, 10), (40, 40), (10, 40)]


def draw(height, width, spots):
    """The map that the published numbers are of: round spots (x, y, spread, top), in 8 bits."""
    y, x = np.mgrid[:height, :width]
    heights = [top * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sd**2)) for cx, cy, sd, top in spots]
    return np.floor(np.max(heights, axis=0) * 255).clip(max=255) / 255


@pytest.mark.parametrize('case', CASES, ids=lambda case: case['name'])
@pytest.mark.parametrize('kind', ['float64', 'float32'])
def test_the_published_numbers(case, kind):
    prob = draw(case['height'], case['width'], case['spots']).astype(kind)
    got = semantic_localization_metrics(prob, case['regions'])
    assert got == pytest.approx(case['published'], abs=1e-6)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize('size', [1, 2, 3, 6, 7, 8, 50])
def test_sliding_max_is_that_of_a_loop(size):
    array = np.random.default_rng(size).integers(0, 256, (23, 5), dtype=np.uint8)
    for axis, flat in ((0, array), (1, array.T)):
        slow = [flat[max(i - size // 2, 0) : i + size - size // 2].max(axis=0) for i in range(len(flat))]
        np.testing.assert_array_equal(
            _sliding_max(flat.T if axis else flat, size, axis), np.array(slow).T if axis else slow
        )


def test_a_peak_is_the_highest_in_a_thousand_pixels():
    near, far = ([[200, 100, 60, 1.0], [200 + gap, 100, 60, 0.9]] for gap in (450, 550))
    assert len(find_peaks(draw(200, 1000, near))) == 1
    assert len(find_peaks(draw(200, 1000, far))) == 2


def test_a_constant_map_is_not_nothing():
    """What the docs warn of: an Rsu of 0.507 for a map that says nothing, and a hit where its center is in a region."""
    ones = np.ones((100, 100))
    missed, hit = (semantic_localization_metrics(ones, [region]) for region in (SQUARE, np.array(SQUARE) + 25))
    assert missed['rsu'] == pytest.approx(0.507, abs=1e-3)
    assert (missed['ras'], missed['rda'], hit['rda']) == (1, 0, 1)
    assert missed['rmi'] == pytest.approx(0.203, abs=1e-3)


@pytest.mark.parametrize(
    ('prob', 'regions', 'match'),
    [
        (np.ones((50, 50)), [], 'no region'),
        (np.ones((50, 50)), [[(60, 60), (90, 60), (90, 90)]], r'no pixel of the map \(50 x 50\)'),
        (np.ones((50, 50)), [SQUARE, [(20, 20)]], r'regions\[1\] is a spot at \(20, 20\)'),
        (np.ones((50, 50)), [[1, 2, 3]], r'regions\[0\] has the shape \(3,\)'),
        (np.ones((50, 50)), SQUARE, r'regions\[0\] has the shape \(2,\)'),
        (np.ones((50, 50)), [[(1, 2), (3, 'x')]], r'regions\[0\] is not a list of points'),
        (np.ones((50, 50)), [[(1, 2), (3,)]], r'regions\[0\] is not a list of points'),
        (np.ones((50, 50)), [[(1, 2), (3, np.nan), (4, 4)]], r'regions\[0\] has a coordinate'),
        (np.ones((50, 50)), [[(1, 2), (1e10, 3), (4, 4)]], r'regions\[0\] has a coordinate'),
        (np.full((50, 50), 255), [SQUARE], 'from 255 to 255, expected 0..1'),
        (np.full((50, 50), -0.1), [SQUARE], 'from -0.1'),
        (np.full((50, 50), np.nan), [SQUARE], 'from nan'),
        (np.ones((50, 50, 3)), [SQUARE], r'shape \(50, 50, 3\)'),
        (np.ones((0, 50)), [SQUARE], r'shape \(0, 50\)'),
    ],
)  # fmt: skip
def test_bad_input(prob, regions, match):
    with pytest.raises(ValueError, match=match):
        semantic_localization_metrics(prob, regions)
