"""mmengine's wrappers around our data sets: training knows what is no negative, tests give the numbers of one set."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from galr_mm.datasets import ImageTextDataset
from galr_mm.datasets.transforms import PackRetrievalInputs
from galr_mm.evaluation import RecallAtK, RetrievalEvaluator
from galr_mm.evaluation.gathering import in_order, record_of
from galr_mm.models import ContrastiveLoss, TripletLoss
from galr_mm.models.losses import duplicate_pairs
from galr_mm.models.retrievers.dual_encoder import pair_ids
from galr_mm.structures import stable_id

PER_SET = ['ann_file', 'split', 'num_images', 'num_texts', 'proposal_classes']  # what ConcatDataset is not to compare
# two sets that number images and captions alike; 'A river!' and 'a river' are one caption
CAPTIONS = dict(
    city=dict(
        train=[['a plane', 'A river!'], ['two ships', 'a road']], test=[['a dock', 'a road'], ['a roof', 'a lawn']]
    ),
    land=dict(
        train=[['a river', 'a field'], ['a farm', 'a hill']], test=[['a road', 'a cow'], ['a hill', 'a wood'], ['x']]
    ),
)


@pytest.fixture
def sets(tmp_path):
    """Folder with city.json and land.json, whose images have the same names, and both.json of all their images."""
    joined = []
    for name, splits in CAPTIONS.items():
        records = [
            dict(filename=f'{split}_{row}.jpg', split=split, sentences=[dict(raw=text) for text in texts])
            for split, images in splits.items()
            for row, texts in enumerate(images)
        ]
        (tmp_path / name).mkdir()
        for record in records:
            (tmp_path / name / record['filename']).touch()
            joined.append({**record, 'filename': f'{name}/{record["filename"]}'})
        (tmp_path / f'{name}.json').write_text(json.dumps(dict(images=records)))
    (tmp_path / 'both.json').write_text(json.dumps(dict(images=joined)))
    return tmp_path


def build(root, name, split='train', folder=None, **options):
    return ImageTextDataset(
        f'{name}.json',
        split,
        data_root=str(root),
        data_prefix=dict(img_path=name if folder is None else folder),
        pipeline=[PackRetrievalInputs()],
        test_mode=split == 'test',
        **options,
    )


def concatenated(root, split='train', **options):
    return ConcatDataset([build(root, name, split, **options) for name in CAPTIONS], ignore_keys=PER_SET)


def samples_of(dataset):
    return [dataset[index]['data_samples'] for index in range(len(dataset))]


def vector(key):
    return F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(stable_id(key) % 2**31)), dim=0)


def predicted(samples):
    """Samples as a model gives them, with features that follow from the file and the words."""
    for sample in samples:
        sample.image_feat = vector(sample.img_path)
        sample.text_feat = torch.stack([vector(text) for text in sample.text])
    return samples


def evaluate(dataset, samples=None):
    evaluator = RetrievalEvaluator(metrics=[RecallAtK()])
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process(predicted(samples_of(dataset) if samples is None else samples))
    return evaluator.evaluate(len(dataset)), evaluator.result, evaluator


@pytest.mark.parametrize('captions', ['each', 'all'])
def test_concatenated_sets_train_as_one(sets, captions):
    samples = samples_of(concatenated(sets, captions=captions))
    image_ids, caption_ids, owner = pair_ids(samples)
    files = [samples[row].img_path for row in range(len(samples))]
    words = [
        text.lower().strip('!') for sample in samples for text in ([sample.text] if captions == 'each' else sample.text)
    ]
    assert (image_ids[:, None] == image_ids).tolist() == [[a == b for b in files] for a in files]
    assert (caption_ids[:, None] == caption_ids).tolist() == [[a == b for b in words] for a in words]
    described = {(file, word) for file, word in zip([files[row] for row in owner], words, strict=True)}
    not_negative = [
        [
            (files[row] == files[owner[column]] or (files[row], words[column]) in described) and owner[column] != row
            for column in range(len(words))
        ]
        for row in range(len(files))
    ]
    if captions == 'all':
        assert duplicate_pairs(image_ids, caption_ids, owner).tolist() == not_negative
        assert duplicate_pairs(image_ids, caption_ids, owner).nonzero().tolist() == [[0, 4], [2, 1]]  # the river
    joined = pair_ids(samples_of(build(sets, 'both', folder='', captions=captions)))
    image, text = torch.stack([vector(file) for file in files]), torch.stack([vector(word) for word in words])
    for loss in (ContrastiveLoss(), TripletLoss()):
        assert loss(image, text, image_ids, caption_ids, owner) == loss(image, text, *joined)


def test_splits_and_captions_of_one_folder(sets):
    """What shares files: an image stays one image, whichever file its caption comes from."""
    other = json.loads((sets / 'city.json').read_text())
    for record in other['images']:
        record['sentences'] = [dict(raw='from above')]
    (sets / 'other.json').write_text(json.dumps(other))
    parts = [build(sets, 'city'), build(sets, 'other', folder='city'), build(sets, 'city', 'train', indices=[3, 0])]
    (sets / 'link').symlink_to(sets / 'city')
    parts.append(build(sets, 'city', folder='link', indices=1))
    image_ids, caption_ids, _ = pair_ids(samples_of(ConcatDataset(parts, ignore_keys=PER_SET)))
    first, second = image_ids[0], image_ids[2]
    assert image_ids.tolist() == [first] * 2 + [second] * 2 + [first, second] + [second, first] + [first]
    assert caption_ids[6:].tolist() == [caption_ids[3], caption_ids[0], caption_ids[0]]
    # images of two splits have the same index
    test = build(sets, 'city', 'test')
    test.test_mode = False
    assert len(pair_ids(samples_of(build(sets, 'city', captions='all')) + samples_of(test))[0].unique()) == 4


def test_concatenated_sets_test_as_one(sets):
    both, joined = concatenated(sets, 'test'), build(sets, 'both', 'test', folder='')
    metrics, result, evaluator = evaluate(both)
    expected, wanted, _ = evaluate(joined)
    assert metrics == expected
    for name in ('image_ids', 'image_paths', 'text_ids', 'texts'):
        assert getattr(result, name) == getattr(wanted, name), name
    assert result.image_ids == [0, 1, 2, 3, 4]
    assert result.text_ids == list(range(9))
    for name in ('i2t', 't2i', 'positives'):
        assert torch.equal(getattr(result.raw, name), getattr(wanted.raw, name)), name
    report = evaluator.report(result, metrics)
    assert all(f"split 'test' of {sets}/{name}.json" in report for name in CAPTIONS)
    assert '5 images, 9 captions' in report


def test_processes_and_padding(sets):
    """The records of any number of processes, the last parts padded with the first samples, are those of one."""
    records = [record_of(sample) for sample in predicted(samples_of(concatenated(sets, 'test')))]
    for processes in (1, 2, 3, 4):
        total = math.ceil(len(records) / processes) * processes
        padded = [records[index % len(records)] for index in range(total)]
        assert in_order([padded[rank::processes] for rank in range(processes)]) == records


def test_bare_numbers_collide(sets):
    """Foreign sets number their images from 0 and do not say which set they are."""
    samples = samples_of(concatenated(sets, 'test'))
    foreign = []
    for sample in samples:
        other = DataSample(metainfo=dict(image_id=sample.image_id.row, img_path=sample.img_path), text=sample.text)
        other.text_id = sample.text_id
        foreign.append(other)
    with pytest.raises(ValueError, match=r'image id 0 stands for two images, .*city/test_0.jpg and .*land/test_0.jpg'):
        evaluate(concatenated(sets, 'test'), foreign)


def test_repeated(sets):
    once, twice = build(sets, 'land', 'test'), RepeatDataset(build(sets, 'land', 'test'), times=2)
    metrics, result, _ = evaluate(twice)
    assert metrics == evaluate(once)[0]
    assert result.image_ids == [0, 1, 2]
    image_ids, caption_ids, _ = pair_ids(samples_of(RepeatDataset(build(sets, 'land'), times=2)))
    for ids in (image_ids, caption_ids):
        assert ids[:4].tolist() == ids[4:].tolist()
    assert len(image_ids.unique()) == 2
    assert len(caption_ids.unique()) == 4
    with pytest.raises(RuntimeError, match='2 different images arrived, the data set holds 6'):
        evaluate(twice, samples_of(twice)[:2])  # a third is lost: not a repetition


def test_a_part_of_a_set(sets):
    part = build(sets, 'land', 'test', indices=[2, 0])
    _, result, _ = evaluate(part)
    assert result.image_ids == [0, 2]
    assert [path.rsplit('/', 1)[1] for path in result.image_paths] == ['test_0.jpg', 'test_2.jpg']
    assert result.texts == ['a road', 'a cow', 'x']
    assert result.positives.tolist() == [[True, True, False], [False, False, True]]
    halves = ConcatDataset([build(sets, 'city', 'test', indices=[1]), part], ignore_keys=PER_SET)
    assert evaluate(halves)[1].texts == ['a roof', 'a lawn', 'a road', 'a cow', 'x']


def test_class_balanced(sets):
    boxes = [(1, 1), (2, 1), (2, 2)]  # image and class: land's second training image alone has class 2
    proposals = dict(
        images=[dict(id=row + 1, file_name=f'train_{row}.jpg', width=8, height=8) for row in range(2)],
        categories=[dict(id=1, name='house'), dict(id=2, name='tree')],
        annotations=[dict(image_id=image, category_id=label, bbox=[0, 0, 4, 4], score=0.5) for image, label in boxes],
    )
    (sets / 'proposals.json').write_text(json.dumps(proposals))
    dataset = build(sets, 'land', proposal_file='proposals.json')
    assert [dataset.get_cat_ids(index) for index in range(4)] == [[0], [0], [0, 1], [0, 1]]
    balanced = ClassBalancedDataset(dataset, oversample_thr=1.0)  # sqrt(1 / 0.5), rounded up
    samples = samples_of(balanced)
    assert [sample.text for sample in samples] == ['a river', 'a field', 'a farm', 'a farm', 'a hill', 'a hill']
    image_ids, caption_ids, owner = pair_ids(samples)
    assert duplicate_pairs(image_ids, caption_ids, owner)[2].tolist() == [False] * 3 + [True] * 3
    with pytest.raises(ValueError, match=r'land.json: balancing classes needs proposals'):
        ClassBalancedDataset(build(sets, 'land', proposal_file=None), oversample_thr=1.0)


def test_sentence_ids_that_restart(sets):
    content = json.loads((sets / 'city.json').read_text())
    np.save(sets / 'vectors.npy', np.arange(8, dtype=np.float32)[:, None])

    def vectors(numbers):
        numbers = iter(numbers)
        for record in content['images']:
            for sentence in record['sentences']:
                sentence['sentid'] = next(numbers)
        (sets / 'city.json').write_text(json.dumps(content))
        return [
            float(build(sets, 'city', sentence_vectors='vectors.npy').get_data_info(i)['text'][0]) for i in range(4)
        ]

    assert vectors(range(8)) == [0, 1, 2, 3]
    for restarting in ([0, 1] * 4, [0, 1, 2, 3] * 2):  # for each image; for each split
        with pytest.raises(ValueError, match=r'city.json: .* both have the sentid 0, so they restart'):
            vectors(restarting)
    with pytest.raises(ValueError, match="train_0.jpg has the sentid '0', expected 0 or more"):
        vectors('01234567')
