import copy
import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from galr_mm.cli import convert_captions, verify_dataset
from galr_mm.datasets import ImageTextDataset
from galr_mm.datasets.transforms.loading import fit_proposals
from galr_mm.imagery import list_images
from tests.helpers import SMALL, run_tool


def build(root, split='train', **options):
    return ImageTextDataset('dataset_mini.json', split, data_root=str(root), **options)


def edit(mini, target, change):
    """A copy of the set whose records went through ``change``."""
    target.mkdir()
    (target / 'images').symlink_to(mini / 'images')
    for name in ('vocabulary.json', 'instances_train.json'):
        shutil.copy(mini / name, target)
    content = json.loads((mini / 'dataset_mini.json').read_text())
    change(content['images'])
    (target / 'dataset_mini.json').write_text(json.dumps(content))
    return target


def test_train_samples(mini):
    dataset = build(mini)
    assert (dataset.img_size, dataset.text_size, len(dataset)) == (
        SMALL['train'],
        5 * SMALL['train'],
        5 * SMALL['train'],
    )
    sample = dataset[7]
    assert (sample['image_id'].row, sample['text_id']) == (1, 7)
    assert isinstance(sample['text'], str)
    assert 'detections' not in sample


def test_training_on_all_captions_of_an_image(mini):
    """An epoch is one pass over the images; a sample is that of the test mode and goes through the pipeline whole."""
    pack = [dict(type='galr_mm.LoadImageWithProposals'), dict(type='galr_mm.PackRetrievalInputs')]
    dataset = build(mini, captions='all')
    assert (dataset.img_size, dataset.text_size, len(dataset)) == (
        SMALL['train'],
        5 * SMALL['train'],
        SMALL['train'],
    )
    as_tested = build(mini, test_mode=True)
    assert [dataset[i] for i in range(len(dataset))] == [as_tested[i] for i in range(len(dataset))]
    data = build(mini, captions='all', pipeline=pack)[2]['data_samples']
    assert data.image_id.row == 2
    assert data.text == [build(mini)[i]['text'] for i in range(10, 15)]
    assert data.text_id == [10, 11, 12, 13, 14]
    assert data.caption_id == [build(mini)[i]['caption_id'] for i in range(10, 15)]
    with pytest.raises(ValueError, match="captions is 'some'"):
        build(mini, captions='some')


def test_test_samples(mini):
    dataset = build(mini, 'test', test_mode=True)
    assert len(dataset) == SMALL['test']
    sample = dataset[2]
    assert len(sample['text']) == 5
    assert sample['gt_text_id'] == [10, 11, 12, 13, 14]
    assert sample['gt_image_id'] == [2] * 5
    assert dataset.metainfo['split'] == 'test'


def test_equal_captions_share_an_id(mini, tmp_path):
    def change(records):
        records[0]['sentences'][0]['raw'] = 'The same words.'
        records[1]['sentences'][3]['raw'] = 'the SAME words'

    dataset = build(edit(mini, tmp_path / 'set', change))
    assert dataset[0]['caption_id'] == dataset[8]['caption_id'] != dataset[1]['caption_id']


def test_proposals_come_with_samples(mini):
    dataset = build(mini, proposal_file='instances_train.json')
    found = [dataset[i]['detections'] for i in range(0, len(dataset), 5)]
    coco = json.loads((mini / 'instances_train.json').read_text())
    assert sum(map(len, found)) == len(coco['annotations'])
    assert dataset.metainfo['proposal_classes'][0] == 'airplane'
    index = next(index for index, detections in enumerate(found) if len(detections))
    results = dict(detections=found[index], img_shape=found[index].image_size)
    fit_proposals(results)
    results['gt_bboxes'][:] = -1  # what transforms do to a sample does not reach the next epoch
    assert dataset[5 * index]['detections'].boxes.min() >= 0


def test_images_that_the_proposals_do_not_know_have_no_objects(mini, tmp_path):
    root = edit(mini, tmp_path / 'set', lambda records: None)
    content = json.loads((root / 'instances_train.json').read_text())
    gone = next(image for image in content['images'] if image['file_name'] == 'train_0002.jpg')
    content['images'].remove(gone)
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] != gone['id']]
    (root / 'proposals.json').write_text(json.dumps(content))
    assert len(build(root)[10]['detections']) == 0


def test_auto_takes_proposals_json(mini, tmp_path):
    root = edit(mini, tmp_path / 'set', lambda records: None)
    assert build(root).proposals is None
    shutil.copy(root / 'instances_train.json', root / 'proposals.json')
    assert build(root).proposals is not None
    assert build(root, proposal_file=None).proposals is None


def test_named_proposals_must_exist(mini):
    with pytest.raises(FileNotFoundError, match='extract_proposals.py'):
        build(mini, proposal_file='nowhere.json')


def test_proposals_of_another_set(mini):
    with pytest.raises(ValueError, match='knows none of the 8 val images'):
        build(mini, 'val', proposal_file='instances_train.json')


def test_missing_image_and_folder(mini, tmp_path):
    root = edit(mini, tmp_path / 'set', lambda records: records[3].update(filename='gone.jpg'))
    with pytest.raises(FileNotFoundError, match=r'1 of 24 train images .* gone.jpg.*docs/datasets.md'):
        build(root)
    with pytest.raises(FileNotFoundError, match='no image folder'):
        build(root, data_prefix=dict(img_path='nowhere'))
    with pytest.raises(FileNotFoundError, match='no caption file at .*none.json'):
        ImageTextDataset('none.json', 'train', data_root=str(root))


def test_one_answer_to_where_an_image_is(tmp_path, capsys):
    """Data set, converter, extraction and check find the same files, whatever way their names are written."""
    files = {
        'S2.v1.a': 'S2.v1.a.jpg',
        'b.tif': 'b.JPG',
        'Z\u00fcrich/c.jpg': 'Zu\u0308rich/c.jpg',
        'd.jpg': 'sub/d.jpg',
    }
    records = []
    for (listed, name), split in zip(files.items(), ('train', 'train', 'val', 'test'), strict=True):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(path, format='JPEG')
        records.append(dict(filename=listed, split=split, sentences=[dict(raw='a river')]))
    records[-1]['filepath'] = 'sub'
    (tmp_path / 'images/Thumbs.db').touch()
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps(dict(images=records)))
    boxes = dict(id=1, file_name='Z\u00fcrich/c.jpg', width=8, height=8)
    box = dict(image_id=1, category_id=1, bbox=[0, 0, 4, 4], score=0.5)
    proposals = dict(images=[boxes], categories=[dict(id=1, name='x')], annotations=[box])

    convert_captions.main([str(path), '--images', str(tmp_path / 'images'), '--out', str(tmp_path / 'new.json')])
    assert '4 names matched to those in' in capsys.readouterr().out
    for ann_file in ('captions.json', 'new.json'):
        assert list_images(tmp_path / ann_file)[1] == list(files.values())
        found = []
        for split in ('train', 'val', 'test'):
            if split == 'val':
                (tmp_path / 'proposals.json').write_text(json.dumps(proposals))
            dataset = ImageTextDataset(ann_file, split, data_root=str(tmp_path))
            (tmp_path / 'proposals.json').unlink(missing_ok=True)
            found += [dataset.get_data_info(index) for index in range(len(dataset))]
        assert [info['file_name'] for info in found] == list(files.values())
        assert [info['img_path'] for info in found] == [str(tmp_path / 'images' / name) for name in files.values()]
        assert len(found[2]['detections']) == 1
        loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(data_root=str(tmp_path), ann_file=ann_file)))
        cfg = Config({f'{split}_dataloader': copy.deepcopy(loader) for split in ('train', 'val', 'test')})
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.dataset.split = split
        assert verify_dataset.check(cfg) == []
    (tmp_path / 'images/b.png').touch()
    assert verify_dataset.check(cfg) == []  # the converter wrote b.JPG
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.dataset.ann_file = 'captions.json'
    (problem,) = verify_dataset.check(cfg)
    assert 'b.tif is not in' in problem
    with pytest.raises(ValueError, match=r'b\.JPG, b\.png could each be it'):
        build_from(tmp_path)


def build_from(root, split='train', ann_file='captions.json'):
    return ImageTextDataset(ann_file, split, data_root=str(root), proposal_file=None)


def test_unknown_split(mini):
    with pytest.raises(ValueError, match="split is 'dev'"):
        build(mini, 'dev')


def test_sentence_vectors(mini, tmp_path):
    root = edit(mini, tmp_path / 'set', lambda records: None)
    vectors = np.random.default_rng(0).normal(size=(5 * sum(SMALL.values()), 7)).astype(np.float32)
    np.save(root / 'vectors.npy', vectors)
    dataset = build(root, 'test', test_mode=True, sentence_vectors='vectors.npy')
    first = 5 * (SMALL['train'] + SMALL['val'])
    np.testing.assert_array_equal(dataset[1]['text'][2], vectors[first + 7])
    np.save(root / 'vectors.npy', np.round(vectors).astype(np.int8))
    assert build(root, 'test', sentence_vectors='vectors.npy')[0]['text'].dtype == np.float32


def as_npz(path, vectors):
    with path.open('wb') as file:
        np.savez(file, vectors=vectors)


def with_value(value):
    def save(path, vectors):
        vectors = vectors.astype(np.float64)
        vectors[3, 2] = value
        np.save(path, vectors)

    return save


@pytest.mark.parametrize(
    ('save', 'match'),
    [
        (as_npz, 'magic string'),
        (lambda path, vectors: path.write_bytes(b''), 'cannot be read'),
        (lambda path, vectors: path.write_text('0.1 0.2\n'), 'magic string'),
        (lambda path, vectors: np.save(path, vectors) or path.write_bytes(path.read_bytes()[:-4]), 'cannot be read'),
        (lambda path, vectors: np.save(path, vectors) or path.write_bytes(path.read_bytes()[:40]), 'cannot be read'),
        (lambda path, vectors: np.save(path, vectors.astype(str)), 'type <U'),
        (lambda path, vectors: np.save(path, vectors.astype(object)), 'cannot be read'),
        (lambda path, vectors: np.save(path, vectors + 1j), 'type complex64'),
        (lambda path, vectors: np.save(path, vectors[:-1]), r'shape \(\d+, 7\)'),
        (lambda path, vectors: np.save(path, np.repeat(vectors, 2, 0)), r'shape \(\d+, 7\)'),
        (lambda path, vectors: np.save(path, vectors[:, 0]), r'shape \(\d+,\)'),
        (lambda path, vectors: np.save(path, vectors[:, :0]), r'shape \(\d+, 0\)'),
        (
            lambda path, vectors: np.save(path, np.full_like(vectors, np.nan)),
            f'{5 * sum(SMALL.values())} rows hold NaN',
        ),
        (with_value(np.inf), '1 rows hold NaN or infinity, such as 3'),
        (with_value(1e300), '1 rows hold NaN or infinity, such as 3'),
    ],
    ids=[
        'npz',
        'empty',
        'text',
        'cut',
        'header',
        'strings',
        'objects',
        'complex',
        'fewer',
        'more',
        'flat',
        'narrow',
        'nan',
        'inf',
        'large',
    ],
)
def test_files_that_are_no_sentence_vectors(mini, tmp_path, save, match):
    root = edit(mini, tmp_path / 'set', lambda records: None)
    rows = 5 * sum(SMALL.values())
    save(root / 'vectors.npy', np.random.default_rng(0).normal(size=(rows, 7)).astype(np.float32))
    with pytest.raises(ValueError, match=match) as error:
        build(root, 'test', sentence_vectors='vectors.npy')
    assert str(root / 'vectors.npy') in str(error.value)
    assert f'expected a .npy of real numbers ({rows}, D)' in str(error.value)


def test_verify_lists_all_problems(mini, mini_config, tmp_path):
    clean = run_tool('tools/dataset_converters/verify_dataset.py', mini_config)
    assert '0 problems' in clean.stdout

    root = tmp_path / 'set'
    shutil.copytree(mini, root)
    (root / 'images/train_0001.jpg').unlink()
    (root / 'images/train_0002.jpg').write_bytes(b'no image')
    cut = root / 'images/val_0003.jpg'
    cut.write_bytes(cut.read_bytes()[:3000])
    (root / 'vocabulary.json').write_text('{}')
    config = tmp_path / 'broken.py'
    config.write_text(mini_config.read_text().replace(f"'{mini}/'", f"'{root}/'"))
    done = run_tool('tools/dataset_converters/verify_dataset.py', config, check=False)
    assert done.returncode == 1
    for word in ('missing', 'train_0001.jpg', 'train_0002.jpg', 'val_0003.jpg', 'vocabulary.json', '4 problems'):
        assert word in done.stdout
