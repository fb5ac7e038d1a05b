import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from galr_mm.structures import Detections
from tests.helpers import run_tool


def found(**options):
    values = dict(
        boxes=[[0, 0, 10, 20], [5, 5, 9, 9], [1, 2, 3, 4]],
        scores=[0.2, 0.9, 0.2],
        labels=[3, 1, 0],
        image_size=(40, 50),
    )
    return Detections(**values | options)


def test_highest_score_first_and_stable():
    detections = found()
    assert detections.labels.tolist() == [1, 3, 0]
    assert detections.boxes.tolist() == [[5, 5, 9, 9], [0, 0, 10, 20], [1, 2, 3, 4]]
    assert len(detections) == 3
    assert (detections.boxes.dtype, detections.scores.dtype, detections.labels.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert detections.top(2).labels.tolist() == [1, 3]
    assert len(detections.top(None)) == 3


@pytest.mark.parametrize('convert', [np.asarray, torch.tensor, lambda values: torch.tensor(values).double()])
def test_arrays_and_tensors(convert):
    detections = Detections(convert([[0.0, 1, 2, 3]]), convert([0.5]), convert([2]), image_size=(4, 5))
    assert (detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist()) == (
        [[0, 1, 2, 3]],
        [0.5],
        [2],
    )


def test_scaled_to():
    scaled = found().scaled_to((80, 25))
    assert scaled.boxes[0].tolist() == [2.5, 10, 4.5, 18]
    assert scaled.image_size == (80, 25)
    torch.testing.assert_close(scaled.relative_boxes(), found().relative_boxes())
    torch.testing.assert_close(found().relative_boxes()[1], torch.tensor([0, 0, 0.2, 0.5]))
    own = found()
    own.scaled_to(own.image_size).boxes.fill_(-1)
    assert own.boxes.min() == 0


def test_filtered():
    detections = found(boxes=[[-5, 0, 10, 20], [60, 5, 70, 9], [45, 30, 90, 90]], scores=[0.2, 0.9, 0.1])
    assert detections.filtered().boxes.tolist() == [[0, 0, 10, 20], [45, 30, 50, 40]]
    assert detections.filtered(score_thr=0.15).labels.tolist() == [3]
    assert detections.filtered(max_count=1).labels.tolist() == [3]
    assert len(found().filtered(score_thr=0.95)) == 0


def test_coco():
    detections = found(boxes=[[0.123, 0, 10.126, 20], [5, 5, 9, 9], [1, 2, 3, 4]])
    annotations = detections.to_coco(image_id=7, first_id=4, category_ids=[11, 12, 13, 14])
    assert annotations[1] == dict(
        id=5, image_id=7, category_id=14, bbox=[0.12, 0, 10.0, 20.0], area=200.0, iscrowd=0, score=0.2
    )
    assert [a['category_id'] for a in detections.to_coco(image_id=1)] == [2, 4, 1]


def test_rows_are_what_files_hold():
    torch.manual_seed(0)
    corner = torch.rand(200, 2) * 3000
    boxes = torch.cat([corner, corner + torch.rand(200, 2) * 500], dim=1)
    detections = Detections(boxes, torch.rand(200), torch.arange(200), (4000, 4000))
    stored = detections.as_stored()
    assert stored.to_rows() == detections.to_rows() == stored.as_stored().to_rows()
    assert (stored.boxes - detections.boxes).abs().max() < 0.02


def test_instances():
    instances = found().to_instances()
    assert isinstance(instances, InstanceData)
    again = Detections.from_instances(instances, (40, 50))
    assert again.to_rows() == found().to_rows()


def test_empty():
    empty = Detections.empty((3, 4))
    assert len(empty) == 0
    assert (empty.boxes.shape, empty.scaled_to((6, 8)).image_size) == ((0, 4), (6, 8))
    assert empty.to_coco(1) == empty.to_rows() == []
    assert len(empty.filtered(0.5, 10).as_stored()) == 0
    assert len(empty.to_instances()) == 0


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(boxes=[[0, 0, 1]]), r'\(1, 3\), \(3,\) and \(3,\)'),
        (dict(scores=[0.5]), r'boxes \(n, 4\)'),
        (dict(scores=0.5), r'scores \(n,\)'),
        (dict(labels=[[1], [2], [3]]), r'labels \(n,\)'),
        (dict(image_size=(0, 5)), r'image_size is \(0, 5\)'),
        (dict(image_size=(4.5, 5)), r'image_size is \(4.5, 5\)'),
        (dict(scores=[0.2, float('nan'), 0.2]), 'scores hold nan, expected finite numbers'),
        (dict(scores=torch.tensor([0.2, float('inf'), 0.2])), 'scores hold inf'),
        (dict(labels=[3, 1.5, 0]), 'labels hold 1.5, expected whole numbers from 0 on'),
        (dict(labels=torch.tensor([3, 1.5, 0])), 'labels hold 1.5'),
        (dict(labels=[3, -1, 0]), 'labels hold -1'),
        (dict(labels=[3, float('nan'), 0]), 'labels hold nan'),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        found(**options)


@pytest.mark.parametrize(
    'options',
    [dict(scores=['0.2'] * 3), dict(labels=[True] * 3), dict(labels=torch.ones(3, dtype=torch.bool)), dict(boxes=None)],
)
def test_no_numbers(options):
    with pytest.raises(TypeError, match=f'{next(iter(options))} hold .*, expected numbers'):
        found(**options)


def test_what_is_filtered_is_counted():
    detections = found(boxes=[[0, 0, 10, 20], [60, 5, 70, 9], [45, 30, 90, 90]], scores=[0.2, 0.9, 0.1])
    kept, dropped = detections.filtered_and_counted(0.15)
    assert len(kept) == 1
    assert dropped == {'with an empty box in the image': 1, 'with a score below 0.15': 1}
    assert detections.filtered_and_counted(max_count=1)[1]['beyond the 1 highest-scoring of their image'] == 1


def test_nothing_changes_them_and_they_travel():
    detections = found()
    with pytest.raises(AttributeError):
        detections.scores = torch.zeros(3)
    for other in (copy.deepcopy(detections), pickle.loads(pickle.dumps(detections))):
        assert other.to_rows() == detections.to_rows()
        assert other.image_size == detections.image_size


def test_structures_are_light():
    heavy = ['mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'transformers', 'torchvision']
    code = f'import sys, galr_mm.structures; print([m for m in {heavy} if m in sys.modules])'
    assert run_tool('-c', code, fresh=True).stdout.strip() == '[]'
