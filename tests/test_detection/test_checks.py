"""Boxes that other tools write in another way are found out by the bulk of a file, not by single values."""

import numpy as np
import pytest

from galr_mm.detection.checks import check_boxes, reason_to_ignore


def check(boxes, width, height=None):
    boxes = np.array(boxes, float)
    sizes = np.broadcast_to([width, height or width], (len(boxes), 2))
    return check_boxes(boxes, sizes, np.arange(len(boxes)), 'annotation')


def some_boxes(count, side, largest=0.2):
    """Boxes xywh all over an image of side x side."""
    rng = np.random.default_rng(1)
    size = rng.uniform(0.05, largest, (count, 2)) * side
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (side - size), size])


def centers(boxes):
    return np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])


RELATIVE = some_boxes(5, 1.0)


@pytest.mark.parametrize(
    'boxes',
    [
        [*RELATIVE[:4], [0, 0, 1.002, 1.0]],
        [[0, 0, 1.002, 1.0]],
        [*RELATIVE[:2], [0.9, 0.9, 1.05, 1.05]],
        [*some_boxes(30, 1.0), [20, 30, 40, 50]],
        [*RELATIVE, [0, 0, 1, 1]],
    ],
    ids=['one of five', 'the only one', 'corners', 'one in pixels', 'whole'],
)
def test_relative(boxes):
    with pytest.raises(ValueError, match=r'256 x 256 pixels, and .* above 1 \(relative\?\)'):
        check(boxes, 256)


def test_relative_beside_a_tiny_image():
    boxes = np.vstack([some_boxes(30, 1.0), [[0, 0, 1, 1]]])
    sizes = np.array([[256, 256]] * 30 + [[2, 2]])
    with pytest.raises(ValueError, match='relative'):
        check_boxes(boxes, sizes, np.arange(31), 'annotation')


@pytest.mark.parametrize(
    'boxes', [[[0, 0, 1, 1]] * 5, [[0, 0, 1, 1], [1, 0, 1, 1]], [*RELATIVE[:2], *some_boxes(5, 256)]]
)
def test_pixels_are_not_relative(boxes):
    assert check(boxes, 256 if len(boxes) > 5 else 9)[0].all()


@pytest.mark.parametrize('count', [1, 2])
def test_single_wrong_boxes_make_no_corners(count):
    visible, notes = check([*[[20, 20, 200, 200]] * (10 - count), *[[90, 90, 195, 195]] * count], 256)
    assert visible.all()
    assert [f'{count} boxes reach more than a tenth' in note for note in notes] == [True]


def test_corners_with_a_few_that_make_sense_as_both():
    with pytest.raises(ValueError, match=r'which 6 boxes leave; 10 of 10 boxes make sense as corners'):
        check([*[[20, 20, 200, 200]] * 4, *[[90, 90, 195, 195]] * 6], 256)


@pytest.mark.parametrize('count', [3, 9, 40])
def test_percent_is_logged(count):
    notes = check(some_boxes(count, 100), 800)[1]
    assert [f'all {count} boxes are in the upper left quarter' in note for note in notes] == [True]
    assert 'percent' in notes[0]
    assert check(some_boxes(count, 800), 800)[1] == []


@pytest.mark.parametrize('count', [8, 100])
def test_centers_are_logged(count):
    boxes = some_boxes(count, 256, largest=0.5)
    visible, notes = check(centers(boxes), 256)
    assert visible.all()
    assert len(notes) == 1
    assert f'of {count} boxes leave their image on the right or below, and as' in notes[0]
    assert check(boxes, 256)[1] == []


def test_null_says_nothing():
    assert reason_to_ignore(dict(iscrowd=None, ignore=None)) is None
    assert reason_to_ignore(dict(iscrowd=None, ignore=1)) == 'to be ignored (ignore)'
    with pytest.raises(ValueError, match="iscrowd is 'no', expected 0 or 1"):
        reason_to_ignore(dict(iscrowd='no'))
