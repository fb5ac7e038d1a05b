import json

import pytest
from pycocotools.coco import COCO

from galr_mm.detection import ProposalSet


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
    assert found.bboxes[1].tolist() == [5, 6, 12, 14]
    assert found.img_shape == (50, 100)
    assert len(proposals.get('sub/b.jpg').bboxes) == 0
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
        (lambda c: c['annotations'][0].update(bbox=['1', '2', '3', '4']), "'1' is no number"),
        (lambda c: c['annotations'][0].update(score=None), 'None is no number'),
        (lambda c: c['images'][1].update(id=7), 'the id 7 more than once'),
        (lambda c: c['images'][1].update(file_name='a.jpg'), "'a.jpg' more than once"),
        (lambda c: c['images'][0].update(height=0), 'no size'),
        (lambda c: c.update(annotations=None), 'no list'),
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
