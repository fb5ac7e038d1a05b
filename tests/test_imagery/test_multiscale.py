from collections import Counter

import numpy as np
import pytest

from galr_mm.imagery import SCALES, multiscale_windows


def published(height, width, scales):
    """The loops of the published code, which needs sides of at least a scale."""
    found = set()
    for step in scales:
        for gap in (step, int(0.5 * step)):
            for y in range(step - gap, height, step):
                for x in range(step - gap, width, step):
                    top, left = min(y, height - step), min(x, width - step)
                    found.add((left, top, left + step, top + step))
    return found


@pytest.mark.parametrize('size', [(768, 768), (1000, 1533), (1024, 1280), (2001, 900)])
@pytest.mark.parametrize('scales', [SCALES, (101, 300)])
def test_windows_are_the_published_ones(size, scales):
    windows = multiscale_windows(*size, scales)
    assert set(windows) == published(*size, scales)
    assert len(windows) == len(set(windows))


def test_number_of_windows_of_a_large_scene():
    windows = multiscale_windows(10_000, 10_000)
    assert Counter(window.right - window.left for window in windows) == {256: 3120, 512: 799, 768: 364}


@pytest.mark.parametrize('size', [(1, 1), (100, 100), (100, 2000), (300, 256), (767, 5)])
def test_a_scene_that_is_smaller_than_a_scale_is_covered(size):
    height, width = size
    seen = np.zeros(size, int)
    for scale in SCALES:
        for left, top, right, bottom in multiscale_windows(height, width, [scale]):
            assert (bottom - top, right - left) == (min(scale, height), min(scale, width))
            seen[top:bottom, left:right] += 1
    assert seen.min() >= len(SCALES)


@pytest.mark.parametrize(
    ('size', 'scales', 'match'), [((5, 5), [], 'scales are'), ((5, 5), [4, 0], 'scales are'), ((0, 5), [4], '5 x 0')]
)
def test_bad_input(size, scales, match):
    with pytest.raises(ValueError, match=match):
        multiscale_windows(*size, scales)
