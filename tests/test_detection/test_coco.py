import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from galr_mm.detection import ProposalSet, write_coco
from galr_mm.structures import Detections
from tests.helpers import run_tool


def content():
    return dict(
        images=[
            dict(id=7, file_name='a.jpg', width=100, height=50),
            dict(id=9, file_name='sub/b.jpg', width=10, height=10),
        ],
        categories=[dict(id=3, name='ship'), dict(id=1, name='plane')],
        annotations=[
            dict(id=1, image_id=7, category_id=1, bbox=[1, 2, 3, 4], score=0.2),
            dict(id=2, image_id=7, category_id=3, bbox=[5, 6, 7, 8], score=0.9),
            dict(id=3, image_id=7, category_id=3, bbox=[0, 0, 1, 1]),
        ],
    )


def save(tmp_path, data):
    path = tmp_path / 'proposals.json'
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_boxes_scores_labels(tmp_path):
    proposals = ProposalSet(save(tmp_path, content()))
    found = proposals.get('a.jpg')
    assert proposals.classes == ('ship', 'plane')
    assert found.scores.tolist() == pytest.approx([1.0, 0.9, 0.2])  # one without a score is certain
    assert found.labels.tolist() == [0, 0, 1]
    assert found.boxes[1].tolist() == [5, 6, 12, 14]
    assert found.image_size == (50, 100)
    assert len(proposals.get('sub/b.jpg')) == 0
    assert proposals.get('c.jpg') is None
    assert 'c.jpg' not in proposals
    assert len(proposals) == 2


def test_max_per_image(tmp_path):
    assert ProposalSet(save(tmp_path, content()), max_per_image=2).get('a.jpg').scores.tolist() == pytest.approx(
        [1, 0.9]
    )


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda c: c.pop('categories'), 'not a COCO json'),
        (lambda c: c['images'][0].pop('width'), "'width'"),
        (lambda c: c['annotations'][0].update(bbox=[1, 2]), 'bbox'),
        (lambda c: c['annotations'][0].update(category_id=8), 'category_id'),
        (lambda c: c['annotations'][0].update(image_id=8), 'image_id'),
        (lambda c: c['annotations'][0].update(bbox=['1', '2', '3', '4']), "'1' is not a number"),
        (lambda c: c['annotations'][0].update(score=None), 'None is not a number'),
        (lambda c: c['images'][1].update(id=7), 'the id 7 more than once'),
        (lambda c: c['images'][1].update(file_name='a.jpg'), "'a.jpg' more than once"),
        (lambda c: c['images'][0].update(height=0), 'no size'),
        (lambda c: c['images'][0].update(height=float('nan')), 'no size'),
        (lambda c: c['images'][0].update(width=float('inf')), 'no size'),
        (lambda c: c.update(annotations=None), 'not a list'),
    ],
)
def test_malformed(tmp_path, change, match):
    data = content()
    change(data)
    with pytest.raises(ValueError, match=match) as error:
        ProposalSet(save(tmp_path, data))
    assert 'proposals.json' in str(error.value)


def test_no_json_and_no_file(tmp_path):
    with pytest.raises(ValueError, match='not a COCO json'):
        ProposalSet(save(tmp_path, 'x'))
    with pytest.raises(FileNotFoundError, match='extract_proposals.py'):
        ProposalSet(tmp_path / 'none.json')


def test_the_generated_boxes_are_such_a_file(mini):
    coco = COCO(str(mini / 'instances_train.json'))
    proposals = ProposalSet(mini / 'instances_train.json')
    assert len(proposals) == len(coco.imgs)


def test_nan_does_not_push_out_good_objects(tmp_path):
    data = content()
    data['annotations'][1]['score'] = float('nan')
    found = ProposalSet(save(tmp_path, data), max_per_image=2).get('a.jpg')
    assert found.scores.tolist() == pytest.approx([1.0, 0.2])
    with pytest.raises(ValueError, match='max_per_image is 0'):
        ProposalSet(save(tmp_path, data), max_per_image=0)


@pytest.mark.parametrize('bbox', [[1, 2, 0, 4], [1, 2, 3, -1], [100, 2, 3, 4], [-5, 0, 5, 5], [0, 50, 9, 9]])
def test_boxes_that_are_empty_or_outside_are_left_out_and_logged(tmp_path, monkeypatch, bbox):
    logged = []
    monkeypatch.setattr('galr_mm.detection.coco.print_log', lambda text, *_: logged.append(text))
    data = content()
    data['annotations'][1]['bbox'] = bbox
    assert len(ProposalSet(save(tmp_path, data)).get('a.jpg')) == 2
    assert len(logged) == 1
    assert 'proposals.json: 1 objects' in logged[0]


def test_what_is_written_is_what_is_read(tmp_path):
    found = Detections([[1.25, 2, 3.5, 4], [0, 0, 9.5, 9.75]], [0.25, 0.5], [1, 0], (10, 20))
    written = write_coco(tmp_path / 'p.json', [('a.jpg', found), ('b.jpg', Detections.empty((7, 8)))], ['ship', 'car'])
    assert written == json.loads((tmp_path / 'p.json').read_text())
    read = ProposalSet(tmp_path / 'p.json')
    assert read.classes == ('ship', 'car')
    for name in ('boxes', 'scores', 'labels'):
        assert getattr(read.get('a.jpg'), name).tolist() == getattr(found, name).tolist()
    assert (read.get('a.jpg').image_size, read.get('b.jpg').image_size) == ((10, 20), (7, 8))
    coco = COCO(str(tmp_path / 'p.json'))
    assert [coco.anns[i]['area'] for i in coco.getAnnIds(1)] == [92.62, 4.5]


RESULTS = [
    dict(image_id=7, category_id=3, bbox=[1, 2, 10, 20], score=0.5),
    dict(image_id=7, category_id=1, bbox=[5, 5, 3, 3], score=0.9),
    dict(image_id=7, category_id=1, bbox=[5, 5, 3, 3], score=0.05),
]
IMAGES = dict(
    images=[dict(id=7, file_name='a.jpg', width=50, height=40), dict(id=9, file_name='b.jpg', width=50, height=40)],
    categories=[dict(id=1, name='ship'), dict(id=3, name='plane')],
)


def convert(tmp_path, results, images, *flags, check=True):
    (tmp_path / 'r.json').write_text(json.dumps(results))
    (tmp_path / 'i.json').write_text(json.dumps(images))
    tool = 'tools/dataset_converters/coco_results.py'
    return run_tool(tool, tmp_path / 'r.json', tmp_path / 'i.json', '--out', tmp_path / 'p.json', *flags, check=check)


def test_results_of_another_framework(tmp_path):
    convert(tmp_path, RESULTS, IMAGES)
    found = ProposalSet(tmp_path / 'p.json')
    assert found.get('a.jpg').labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.get('a.jpg').boxes, [[5, 5, 8, 8], [1, 2, 11, 22]])
    assert len(found.get('b.jpg').labels) == 0
    assert found.classes == ('ship', 'plane')


@pytest.mark.parametrize(
    ('results', 'images', 'message'),
    [
        ([dict(RESULTS[0], image_id=8)], IMAGES, "'image_id': 8"),
        ([dict(RESULTS[0], category_id=2)], IMAGES, "'category_id': 2"),
        ([dict(image_id=7)], IMAGES, 'has no category_id, bbox, score'),
        ({}, IMAGES, 'expected a list'),
        (RESULTS, dict(images=IMAGES['images']), 'images and categories'),
    ],
)
def test_bad_results(tmp_path, results, images, message):
    done = convert(tmp_path, results, images, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'p.json').exists()


@pytest.mark.parametrize('flags', [('--max-per-image', '-1'), ('--max-per-image', '0'), ('--score-thr', 'nan')])
def test_bad_numbers(tmp_path, flags):
    done = convert(tmp_path, RESULTS, IMAGES, *flags, check=False)
    assert flags[1] in done.stderr
    assert not (tmp_path / 'p.json').exists()
