"""Caption lists of other projects: what becomes of each, and what is said of one that is given as it is."""

import json
import re

import pytest

from galr_mm.cli import build_vocabulary, convert_captions, verify_dataset
from galr_mm.datasets import ImageTextDataset
from galr_mm.datasets.caption_formats import read_captions
from galr_mm.datasets.captions import load_karpathy
from tests.helpers import ROOT

FILES = {
    # images with all their captions in lists, as PIR and HarMA ship val and test, and with one each in theirs of train
    'rows_train.json': [
        dict(image='train/a.jpg', caption='a river', label=3),
        dict(image='train/a.jpg', caption='blue'),
    ],
    'rows_val.json': [dict(image='val/b.jpg', image_id=7, caption=['a road', 'a car'])],
    'rows_test.json': [dict(image='test/c.jpg', caption=['a hill'])],
    'coco_train2017.json': dict(
        images=[dict(id=5, file_name='a.jpg', width=8, height=8)],
        annotations=[dict(id=1, image_id=5, caption='a river'), dict(id=2, image_id=5, caption='blue')],
    ),
    'nwpu.json': dict(
        lake=[dict(filename='a.jpg', imgid=0, sentids=[0, 1], split='train', raw='a river', raw_1='blue')],
        road=[
            dict(filename='b.jpg', imgid=1, split='val', raw='a road', raw_1='a car'),
            dict(filename='c.jpg', imgid=2, split='test', raw='a hill', raw_1=' '),
        ],
    ),
    'table.csv': 'filename,caption,split\na.jpg,a river,train\na.jpg,blue,train\nb.jpg,"a road",val\nb.jpg,a car,val\n'
    'c.jpg,a hill,test\n',
    'wide.tsv': 'Image\tcaption_1\tcaption_2\tSPLIT\na.jpg\ta river\tblue\ttraining\nb.jpg\ta road\ta car\tdev\n'
    'c.jpg\ta hill\t\ttest\n',
    'pipes.txt': 'image_name| comment_number| comment| split\na.jpg| 0| a river| train\na.jpg| 1| blue| train\n'
    'b.jpg| 0| a road| val\nb.jpg| 1| a car| val\nc.jpg| 0| a hill| test\n',
    'lines.jsonl': '{"file_name": "a.jpg", "text": ["a river", "blue"], "split": "train"}\n\n'
    '{"file_name": "b.jpg", "text": ["a road", "a car"], "split": "val"}\n'
    '{"file_name": "c.jpg", "text": "a hill", "split": "test"}\n',
    'by_split.json': dict(
        train=[dict(filename='a.jpg', raw='a river', raw_1='blue')],
        Validation=[dict(filename='b.jpg', raw=['a road', 'a car'], split='val')],
        test=[dict(filename='c.jpg', raw='a hill')],
    ),
    'by_image_train.json': {'a.jpg': ['a river', 'blue']},
    'by_image_val.json': {'b.jpg': ['a road', 'a car']},
    'by_image_test.json': {'c.jpg': 'a hill'},
    'a_record_a_caption.json': dict(
        images=[
            dict(filename=name, split=split, sentences=[dict(raw=raw)])
            for name, split, raw in [
                ('a.jpg', 'train', 'a river'),
                ('./a.jpg', 'restval', 'blue'),
                ('b.jpg', 'val', 'a road'),
                ('b.jpg', 'val', 'a car'),
                ('c.jpg', 'test', 'a hill'),
            ]
        ]
    ),
    'b_val.csv': '\ufefffilename;caption\r\nb.jpg;a road\r\nb.jpg;a car\r\n',
    'some.csv': 'filepath\ttitle\nc.jpg\ta hill\n',
}
EXPECTED = [
    ('a.jpg', 'train', ['a river', 'blue']),
    ('b.jpg', 'val', ['a road', 'a car']),
    ('c.jpg', 'test', ['a hill']),
]


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """FILES and their images; paths are relative to the folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / 'images').mkdir()
    for name in 'abc':
        (tmp_path / f'images/{name}.jpg').touch()
    return tmp_path


@pytest.mark.parametrize(
    'sources',
    [
        'rows_train.json rows_val.json rows_test.json',
        'coco_train2017.json b_val.csv test=some.csv',
        'nwpu.json',
        'table.csv',
        'wide.tsv',
        'pipes.txt',
        'lines.jsonl',
        'by_split.json',
        'by_image_train.json by_image_val.json by_image_test.json',
        'a_record_a_caption.json',
    ],
)
def test_every_kind_becomes_the_same(lists, sources):
    convert_captions.main([*sources.split(), '--images', 'images', '--out', 'dataset.json'])
    records = load_karpathy('dataset.json')
    assert [(r['filename'], r['split'], [s['raw'] for s in r['sentences']]) for r in records] == EXPECTED
    assert [s['sentid'] for r in records for s in r['sentences']] == [0, 1, 2, 3, 4]
    words = json.loads((lists / 'vocabulary.json').read_text())['words']
    assert sorted(words[2:]) == ['a', 'blue', 'river']
    dataset = ImageTextDataset('dataset.json', 'val', data_root='.', test_mode=True)
    assert dataset.get_data_info(0)['text'] == ['a road', 'a car']


def test_folders_in_names_stay_where_the_images_have_them(lists):
    (lists / 'images/train').mkdir()
    (lists / 'images/train/a.jpg').touch()
    convert_captions.main(
        ['rows_train.json', 'rows_val.json', 'rows_test.json', '--images', 'images', '--out', 'd.json']
    )
    assert [r['filename'] for r in load_karpathy('d.json')] == ['train/a.jpg', 'b.jpg', 'c.jpg']


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('rows_train.json', 'a list of images with captions'),
        ('coco_train2017.json', 'a json of COCO captions'),
        ('nwpu.json', 'a json of classes'),
        ('by_split.json', 'a json of splits'),
        ('by_image_val.json', 'a json of images with their captions'),
        ('table.csv', 'a table'),
        ('wide.tsv', 'a table'),
        ('lines.jsonl', 'one a line'),
        ('images', 'a folder'),
    ],
)
def test_a_list_that_was_not_converted(lists, name, kind):
    """Data set, vocabulary and check say what it is and name the command."""
    command = f'python tools/dataset_converters/convert_captions.py {name} --images IMAGES --out DATASET.json'
    with pytest.raises(ValueError, match=kind) as error:
        ImageTextDataset(name, 'train')
    with pytest.raises(SystemExit) as told:
        build_vocabulary.main([name, '--out', 'words.json'])
    loader = dict(dataset=dict(type='galr_mm.ImageTextDataset', ann_file=name, split='train'))
    problems = verify_dataset.check(verify_dataset.Config(dict(train_dataloader=loader)))
    for message in (str(error.value), str(told.value), *problems):
        assert command in message
        assert len(message) < 2000


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ('filename,caption\na.jpg,x\n', r'some.csv does not say the split of a.jpg: .*train=some.csv'),
        ('filename,caption,split\na.jpg,one, two,train\n', r'some.csv line 2 has 4 cells, expected 3 .*double quotes'),
        ('filename,caption,split\na.jpg,x,train\na.jpg,y,val\n', 'a.jpg is in the splits train and val'),
        ('filename,caption,split\na.jpg,x,dev2\n', "line 2 .*has the split 'dev2', expected one of train"),
        ('filename,caption,split\n,x,train\n', r"line 2 is .*'caption': 'x'.*, expected an image"),
        ('filename,caption,split\n', 'lists no images'),
        ('a.jpg,x,train\n', r'begins with .*expected a line that names the columns'),
        ('', r'begins with \[\]'),
        ('filename,caption,split\na.jpg,"x,train\nb.jpg,y,val\nc.jpg,z",test\n', r'some.csv line 2 is not a row'),
        ('filename,caption,split\na.jpg,x,train\nb.jpg,"y,val\n', r'some.csv line 3 is not a row .*double quote'),
        ('filename,caption,split\na.jpg,"x" y,train\n', r'some.csv line 2 is not a row .*doubled'),
        ('filename,caption,split\na.jpg,"x\ny",train\n', r'some.csv line 2 is not a row'),
        ('filename,"caption,split\na.jpg,x,train\n', r'some.csv line 1 is not a row'),
        (f'filename,caption,split\na.jpg,{"x" * 200_000},train\n', r'some.csv line 2 is not .*field limit'),
        (f'filename\tcaption\tsplit\na.jpg\t{"x" * 200_000}\ttrain\n', r'some.csv line 2 is not .*field limit'),
        ('filename\tcaption\tsplit\na.jpg\t"x\ttrain\ty"\tval\nb.jpg\t"y\n', 'line 3 has 2 cells, expected 3'),
        ('filename,caption, Caption,split\na.jpg,x,y,train\n', r"some.csv has more than one column \['caption'\]"),
        ('filename,caption,label,label,split\na.jpg,x,1,2,train\n', r"more than one column \['label'\]"),
    ],
    ids=range(18),
)
def test_bad_tables(tmp_path, content, match):
    path = tmp_path / 'some.csv'
    path.write_text(content)
    with pytest.raises(ValueError, match=match):
        read_captions([path])


def test_quotes_of_tables_without_quoting(tmp_path):
    """Tabs and bars need no quotes, so one that is not closed is text; columns without a name are nothing."""
    path = tmp_path / 'some.tsv'
    path.write_text(
        'image\tcaption\tsplit\t\t\na\t"red" roofs\ttrain\t\t\nb\t"two\ttrain\t\t\nc\t"a ""b"""\ttrain\t\t\n'
    )
    assert [r['sentences'][0]['raw'] for r in read_captions([path])] == ['"red" roofs', '"two', 'a "b"']


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ([dict(image='a.jpg', split='train')], 'entry 1 is .*expected an image .* and its caption'),
        ([dict(image='a.jpg', caption=[3], split='train')], 'entry 1 is .*as text'),
        ([dict(image='a.jpg', caption='x', split='val')], 'a.jpg is in the splits train and val'),
        (['a.jpg'], "entry 1 is 'a.jpg', expected an object"),
        ([], 'lists no images'),
        (
            dict(images=[dict(id=1, file_name='a')], annotations=[dict(image_id=2, caption='x')]),
            'image_id 2 of a caption',
        ),
        (dict(images=[dict(file_name='a')], annotations=[dict(image_id=2, caption='x')]), "KeyError.*'id'"),
        (dict(images=[dict(filename='a', split='train', sentences=[])]), 'splits of its own; leave train= out'),
        (dict(lake=[dict(filename='a.jpg', split='train')]), 'lake 1 is .*expected an image'),
        (
            dict(
                images=[dict(id=1, file_name='a'), dict(id=1, file_name='b')],
                annotations=[dict(image_id=1, caption='x')],
            ),
            'more than one image has the id 1',
        ),
        (dict(train=[dict(image='a.jpg', caption='x', split='val')]), 'a.jpg is in the splits train and val'),
        ([{'image': 'a.jpg', 'caption': 'x', 'Caption': 'y'}], "entry 1 has more than one 'caption'"),
        ([dict(image='a.jpg', caption='x \ud800')], r"entry 1 \('a.jpg'\) has the caption 'x .ud800', .*half a char"),
        ([dict(image='a\ud800.jpg', caption='x')], r"image name 'a.ud800.jpg' holds half a character"),
        ({'a.jpg': [3]}, 'entry 1 is .*as text'),
    ],
    ids=range(15),
)
def test_bad_jsons(tmp_path, content, match):
    path = tmp_path / 'some.json'
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match) as error:
        read_captions([f'train={path}'])
    assert str(path) in str(error.value)


def test_a_json_that_is_no_caption_list_is_not_sent_to_the_converter(tmp_path):
    (tmp_path / 'some.json').write_text('{"a": ["x", "y"]}')
    for read in (lambda: read_captions([tmp_path / 'some.json']), lambda: load_karpathy(tmp_path / 'some.json')):
        with pytest.raises(ValueError, match=r"some.json is not a Karpathy-style json with a list 'images'") as error:
            read()
        assert 'convert_captions' not in str(error.value)


def test_a_record_for_each_caption(lists, capsys):
    """Would be as many images of the gallery: refused with the command that puts them together, ids as they were."""
    path = lists / 'a_record_a_caption.json'
    content = json.loads(path.read_text())
    for number, record in enumerate(content['images']):
        record['sentences'][0].update(sentid=10 - number, imgid=number)
        record['imgid'] = number
    path.write_text(json.dumps(content))
    command = 'convert_captions.py a_record_a_caption.json --out DATASET.json'
    for split, name in (('train', 'a.jpg'), ('val', 'b.jpg')):
        with pytest.raises(ValueError, match=rf"a_record_a_caption.json: 1 {split} images .*'{name}' 2 times") as error:
            ImageTextDataset(path.name, split)
        assert command in str(error.value)
    loader = dict(dataset=dict(type='galr_mm.ImageTextDataset', ann_file=path.name, split='val'))
    (problem,) = verify_dataset.check(verify_dataset.Config(dict(val_dataloader=loader)))
    assert command in problem
    convert_captions.main([path.name, '--out', 'd.json'])
    assert 'anew' not in capsys.readouterr().out
    records = load_karpathy('d.json')
    assert [(r['imgid'], r['sentids']) for r in records] == [(0, [10, 9]), (2, [8, 7]), (4, [6])]
    assert {s['imgid'] for s in records[0]['sentences']} == {0}


def test_one_image_in_two_lists(lists):
    assert len(read_captions(['val=some.csv', 'val=some.csv'])) == 1
    (lists / 'a_val.csv').write_text('filename,caption\ntrain/a.jpg,x\n')
    with pytest.raises(ValueError, match=r'train/a.jpg is in the splits train and val'):
        read_captions(['rows_train.json', 'a_val.csv'])
    with pytest.raises(FileNotFoundError, match='no caption list at none.csv'):
        read_captions(['train=none.csv'])


def test_the_json_that_the_docs_show(tmp_path):
    (shown,) = re.findall(r'```json\n(.*?)```', (ROOT / 'docs/datasets.md').read_text(), re.DOTALL)
    (tmp_path / 'dataset.json').write_text(shown)
    records = load_karpathy(tmp_path / 'dataset.json')
    assert [(record['filename'], len(record['sentences'])) for record in records] == [
        ('airport_1.jpg', 2),
        ('river/river_7.jpg', 1),
    ]
