"""Annotations of semantic localization are read, and mosaics have the answers that they say."""

import json

import cv2
import numpy as np
import pytest

from galr_mm.cli.make_selo_mosaics import main as make_mosaics
from galr_mm.datasets.captions import number_records
from galr_mm.datasets.localization import read_air_slt, write_air_slt
from galr_mm.datasets.mosaics import classes_of, draw_mosaic
from tests.color_retriever import COLORS, draw_color_set

SQUARE = [[1, 2], [30.5, 2], [30.5, 40], [1, 40]]
ENTRY = dict(jpg_name='0.jpg', caption='a river .\n', points=[SQUARE, [[0, 0], [5, 5], [0, 5]]])


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reading_and_writing(tmp_path):
    cases = read_air_slt(write(tmp_path / 'a.json', [ENTRY, ENTRY | dict(jpg_name='b/1.jpg')]))
    assert [(case.scene, case.sentence) for case in cases] == [('0.jpg', 'a river .'), ('b/1.jpg', 'a river .')]
    assert [region.shape for region in cases[0].regions] == [(4, 2), (3, 2)]
    np.testing.assert_array_equal(cases[0].regions[0], SQUARE)
    write_air_slt(tmp_path / 'b.json', cases)
    assert json.loads((tmp_path / 'b.json').read_text())[0] == ENTRY | dict(caption='a river .')


def test_the_published_annotations(real_data):
    cases = read_air_slt(real_data('air_slt') / 'anno.json')
    assert (len(cases), len({case.scene for case in cases})) == (59, 22)
    assert np.mean([len(case.regions) for case in cases]) == pytest.approx(1.75, abs=0.01)


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ('{', 'is not a json'),
        ({}, 'holds a dict'),
        ([], 'holds an empty list'),
        ([ENTRY, 3], 'entry 1 is a int'),
        ([{**ENTRY, 'caption': ' '}], "entry 0 has caption = ' '"),
        ([{**ENTRY, 'jpg_name': 3}], "entry 0 has jpg_name = '3'"),
        ([dict(caption='a', points=[SQUARE])], "entry 0 has jpg_name = 'None'"),
        ([ENTRY, {**ENTRY, 'points': []}], r'entry 1 has points = \[\]'),
        ([{**ENTRY, 'points': SQUARE}], r'entry 0 has the polygon \[1, 2\]'),
        ([{**ENTRY, 'points': [[[1, 2], [3]]]}], 'entry 0 has the polygon'),
        ([{**ENTRY, 'points': [[[1, None]]]}], 'entry 0 has the polygon'),
        ([{**ENTRY, 'points': ['x' * 10_000]}], 'entry 0 has the polygon'),
    ],
    ids=range(12),
)
def test_bad_annotations(tmp_path, content, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_air_slt(write(tmp_path / 'a.json', content))
    assert 'a.json' in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_missing_annotations(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.json'):
        read_air_slt(tmp_path / 'nowhere.json')


@pytest.fixture(scope='module')
def colors(tmp_path_factory):
    """Folder of a data set of images of one color each."""
    folder = tmp_path_factory.mktemp('colors')
    records = number_records(draw_color_set(folder))
    write(folder / 'dataset.json', dict(images=records))
    return folder


def test_mosaics_have_their_answers(colors, tmp_path):
    argv = [
        str(colors / 'dataset.json'),
        '--class-pattern',
        '([a-z]+)_',
        '--scenes',
        '3',
        '--grid',
        '3',
        '--tile',
        '20',
    ]
    make_mosaics([*argv, '--out', str(tmp_path / 'a')])
    make_mosaics([*argv, '--out', str(tmp_path / 'b')])
    cases = read_air_slt(tmp_path / 'a/anno.json')
    assert {case.scene for case in cases} == {'0000.jpg', '0001.jpg', '0002.jpg'}
    for file in ('anno.json', 'scenes/0001.jpg'):
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()
    counts = []
    for case in cases:
        scene = cv2.imread(str(tmp_path / 'a/scenes' / case.scene)).astype(float)
        assert scene.shape == (60, 60, 3)
        (name,) = (name for name in COLORS if name in case.sentence)
        mask = np.zeros((60, 60), np.uint8)
        cv2.fillPoly(mask, [region.astype(np.int32) for region in case.regions], 1)
        assert mask.sum() == 400 * len(case.regions)  # tiles side by side do not overlap
        near = np.abs(scene.reshape(3, 20, 3, 20, 3).mean(axis=(1, 3)) - COLORS[name]).max(axis=2) < 20
        np.testing.assert_array_equal(mask.reshape(3, 20, 3, 20).min(axis=(1, 3)).astype(bool), near)
        counts.append(len(case.regions))
    assert max(counts) > 1


def test_without_classes_equal_captions_are_the_answer(colors):
    records, classes = classes_of(json.loads((colors / 'dataset.json').read_text())['images'], None)
    records[0] = {**records[0], 'sentences': [dict(raw='A lake, alone!')]}
    records[9] = {**records[9], 'sentences': [dict(raw='a lake alone'), dict(raw='water')]}
    tiles, queries = draw_mosaic(records, classes, grid=4, sentences=16, rng=np.random.default_rng(0))
    assert sorted(tiles) == list(range(16))
    assert len(queries) == 16
    answers = {caption: sorted(tiles[place] for place in places) for caption, places in queries}
    assert answers['A lake, alone!'] == [0, 9]
    reds = [found for caption, found in answers.items() if 'red' in caption]
    assert reds
    assert all(found == [1, 2, 3] for found in reds)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (['--grid', '5'], '5 x 5 needs 25 images, there are 16'),
        (['--class-pattern', '(x'], 'not a regular expression'),
        (['--class-pattern', '[a-z]+'], 'has no group'),
        (['--class-pattern', '(x)'], "fits no file name, such as 'red_0.png'"),
        (['--split', 'val'], "no image of split 'val'"),
        (['--images', 'nowhere'], 'nowhere'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_bad_options(colors, tmp_path, options, match):
    with pytest.raises(SystemExit, match=match):
        make_mosaics([str(colors / 'dataset.json'), '--out', str(tmp_path), '--tile', '20', *options])
    assert not (tmp_path / 'anno.json').exists()
