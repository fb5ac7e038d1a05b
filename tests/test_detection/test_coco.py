import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from galr_mm.cli import convert_detections
from galr_mm.detection import ProposalSet, write_coco
from galr_mm.structures import Detections


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
    assert 'proposals.json: 1 objects left out: 1 ' in logged[0]


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


def convert(tmp_path, results, images, *flags):
    (tmp_path / 'r.json').write_text(json.dumps(results))
    (tmp_path / 'i.json').write_text(json.dumps(images))
    convert_detections.main(
        [*map(str, (tmp_path / 'r.json', tmp_path / 'i.json', '--out', tmp_path / 'p.json')), *flags]
    )


def test_results_of_another_framework(tmp_path, capsys):
    crowd, empty = dict(RESULTS[1], iscrowd=1), dict(RESULTS[1], bbox=[5, 5, 0, 3])
    convert(tmp_path, [*RESULTS, crowd, empty, dict(RESULTS[1], score=0.3)], IMAGES, '--max-per-image', '2')
    found = ProposalSet(tmp_path / 'p.json')
    assert found.get('a.jpg').labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.get('a.jpg').boxes, [[5, 5, 8, 8], [1, 2, 11, 22]])
    assert len(found.get('b.jpg').labels) == 0
    assert found.classes == ('ship', 'plane')
    assert (
        '2 objects in 2 images written to ' + str(tmp_path / 'p.json') + '; 4 objects left out: 1 crowd (iscrowd), '
        '1 with an empty box, 1 with a score below 0.1, 1 beyond the 2 highest-scoring of their image'
    ) in capsys.readouterr().out


NAN = float('nan')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(image_id=8), 'result 3 is .*image_id is 8, which is not listed'),
        (dict(image_id=True), 'result 3 is .*image_id is True'),
        (dict(image_id=[7]), r'result 3 is .*image_id is \[7\]'),
        (dict(image_id='7'), "result 3 is .*image_id is '7'"),
        (dict(category_id=2), 'result 3 is .*category_id is 2, which is not listed'),
        (dict(category_id=1.5), 'result 3 is .*category_id is 1.5'),
        (dict(category_id=True), 'result 3 is .*category_id is True'),
        (dict(category_id=None), 'result 3 is .*category_id is None'),
        (dict(bbox=[1, 2, 3]), r'result 3 is .*bbox is \[1, 2, 3\], expected \[x, y, width, height\]'),
        (dict(bbox=[1, 2, 3, 4, 5]), r'result 3 is .*bbox is \[1, 2, 3, 4, 5\]'),
        (dict(bbox='1234'), "result 3 is .*bbox is '1234'"),
        (dict(bbox=None), 'result 3 is .*bbox is None'),
        (dict(bbox=[1, 2, 3, '4']), "result 3 is .*'4' is not a number"),
        (dict(bbox=[1, 2, 3, True]), 'result 3 is .*True is not a number'),
        (dict(bbox=[1, 2, 3, [4]]), r'result 3 is .*\[4\] is not a number'),
        (dict(score='0.9'), "result 3 is .*'0.9' is not a number"),
        (dict(score=None), 'result 3 is .*None is not a number'),
        (dict(score=True), 'result 3 is .*True is not a number'),
        (dict(iscrowd='no'), "result 3 is .*iscrowd is 'no', expected 0 or 1"),
        (dict(ignore=2), 'result 3 is .*ignore is 2, expected 0 or 1'),
        (dict(score=87.3), r'result 3 has the score 87.3, expected 0 to 1; .* from 0.05 to 87.3 \(percent'),
        (dict(score=-2.5), r'result 3 has the score -2.5, expected 0 to 1; .* \(logits'),
        (dict(score=1e9), r'result 3 has the score 1e\+09, expected 0 to 1'),
    ],
)
def test_a_result_of_another_kind_is_an_error_with_its_index(tmp_path, changes, message):
    with pytest.raises(SystemExit, match=message) as error:
        convert(tmp_path, [*RESULTS, RESULTS[0] | changes], IMAGES)
    assert str(tmp_path / 'r.json') in str(error.value)
    assert len(str(error.value)) < 2000
    assert not (tmp_path / 'p.json').exists()


@pytest.mark.parametrize(
    ('results', 'images', 'message'),
    [
        ([dict(image_id=7)], IMAGES, 'result 0 has no category_id, bbox, score'),
        ([RESULTS[0], 'text'], IMAGES, 'result 1 has no image_id'),
        ([RESULTS[0], None], IMAGES, 'result 1 has no image_id'),
        ({}, IMAGES, 'expected a list'),
        (RESULTS, dict(images=IMAGES['images']), 'images and categories'),
        (RESULTS, IMAGES | dict(images=[dict(IMAGES['images'][0], width='50')]), "'50' is not a number"),
        (RESULTS, IMAGES | dict(images=[dict(IMAGES['images'][0], width=50.5)]), "image 0, 'a.jpg', has no size"),
        (
            RESULTS,
            IMAGES | dict(images=[dict(IMAGES['images'][0], file_name=5)]),
            'a file_name of images is not a text',
        ),
        (RESULTS, IMAGES | dict(images=None), 'not a COCO json'),
        (RESULTS, IMAGES | dict(categories=['ship']), 'not a COCO json'),
    ],
)
def test_bad_results(tmp_path, results, images, message):
    with pytest.raises(SystemExit, match=message) as error:
        convert(tmp_path, results, images)
    assert len(str(error.value)) < 2000
    assert not (tmp_path / 'p.json').exists()


SCENE = dict(images=[dict(id=1, file_name='a.jpg', width=100, height=60)], categories=[dict(id=1, name='ship')])


def of_boxes(boxes, scores=0.9):
    return [dict(image_id=1, category_id=1, bbox=list(map(float, box)), score=scores) for box in boxes]


def some_boxes(count=30):
    """Boxes xywh all over SCENE."""
    rng = np.random.default_rng(0)
    size = rng.uniform(3, 25, (count, 2))
    return np.hstack([rng.uniform(0, 1, (count, 2)) * ([100, 60] - size), size])


def corners(boxes):
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


@pytest.mark.parametrize(
    ('boxes', 'message'),
    [
        (
            corners(some_boxes()),
            r'of 30 boxes make sense as corners \[x1, y1, x2, y2\]; expected \[x, y, width, height\]',
        ),
        (
            [[60, 40, 95, 58], [70, 30, 99, 59], [300, 300, 320, 320]],
            'result 0 has the bbox .*100 x 60 pixels.*corners',
        ),
        (some_boxes() / [100, 60, 100, 60], r'no value of the file is above 1 \(relative\?\)'),
        (corners(some_boxes()) / [100, 60, 100, 60], r'\(relative\?\)'),
        (some_boxes() * 8, r'of 30 boxes leave theirs \(for images of another size\?\)'),
        ([[300, 300, 20, 20]], 'result 0 has the bbox .*leave theirs'),
    ],
)
def test_coordinates_of_another_kind(tmp_path, boxes, message):
    with pytest.raises(SystemExit, match=message):
        convert(tmp_path, of_boxes(boxes), SCENE)
    (tmp_path / 'proposals.json').write_text(json.dumps(SCENE | dict(annotations=of_boxes(boxes))))
    with pytest.raises(ValueError, match=message.replace('result 0', 'annotation 0')):
        ProposalSet(tmp_path / 'proposals.json')


def test_boxes_of_a_good_file_pass(tmp_path, capsys):
    convert(tmp_path, of_boxes([*some_boxes(), [-2, 0, 104, 62], [0, 0, 100, 60]]), SCENE)
    assert '32 objects in 1 images' in capsys.readouterr().out


@pytest.mark.parametrize('value', [1e300, 1e308, 10**400, -1e300, NAN, float('inf')])
@pytest.mark.parametrize('place', range(5))
def test_absurd_values_are_left_out_and_counted(tmp_path, value, place, monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.detection.coco.print_log', lambda text, *_: logged.append(text))
    data = SCENE | dict(annotations=of_boxes(some_boxes(5)))
    if place < 4:
        data['annotations'][2]['bbox'][place] = value
    else:
        data['annotations'][2]['score'] = value
        if abs(value) != float('inf') and value == value and isinstance(value, float):
            with pytest.raises(ValueError, match='annotation 2 has the score .*, expected 0 to 1'):
                ProposalSet(save(tmp_path, data))
            return
    found = ProposalSet(save(tmp_path, data))
    assert len(found.get('a.jpg')) == 4
    assert found.get('a.jpg').boxes.isfinite().all()
    assert found.dropped.total() == 1
    assert '1 objects left out: 1 ' in logged[0]


def test_crowds_and_ignored_boxes_are_no_objects(tmp_path):
    data = content()
    data['annotations'][0]['iscrowd'], data['annotations'][1]['ignore'] = 1, True
    data['annotations'][2].update(iscrowd=0, ignore=False)
    found = ProposalSet(save(tmp_path, data))
    assert found.get('a.jpg').scores.tolist() == [1.0]
    assert found.dropped == {'crowd (iscrowd)': 1, 'to be ignored (ignore)': 1}


@pytest.mark.parametrize(
    ('boxes', 'message'),
    [
        (some_boxes(12) * 0.4, 'all 12 boxes are in the upper left quarter'),
        (
            [*some_boxes(5), [60, 10, 60, 8]],
            '1 boxes reach more than a tenth of its side beyond their image; annotation 5',
        ),
    ],
)
def test_what_is_suspicious_is_logged(tmp_path, boxes, message, monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.detection.coco.print_log', lambda text, *_: logged.append(text))
    assert len(ProposalSet(save(tmp_path, SCENE | dict(annotations=of_boxes(boxes)))).get('a.jpg')) == len(boxes)
    assert [message in text for text in logged] == [True]


@pytest.mark.parametrize('flags', [('--max-per-image', '-1'), ('--max-per-image', '0'), ('--score-thr', 'nan')])
def test_bad_numbers(tmp_path, flags):
    with pytest.raises(SystemExit, match=flags[1]):
        convert(tmp_path, RESULTS, IMAGES, *flags)
    assert not (tmp_path / 'p.json').exists()


def test_a_label_without_a_class_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r'a.jpg: label 2, but there are 2 classes'):
        write_coco(tmp_path / 'p.json', [('a.jpg', Detections([[0, 0, 1, 1]], [0.5], [2], (9, 9)))], ['ship', 'car'])
    assert not (tmp_path / 'p.json').exists()
