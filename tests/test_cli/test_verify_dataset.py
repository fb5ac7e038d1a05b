"""What the check says of a set is what training does with it."""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from galr_mm.cli.verify_dataset import check
from galr_mm.datasets import ImageTextDataset

OBJECT = (70, 5, 95, 25)  # xyxy on the stored grid
LOADING = [dict(type='galr_mm.LoadImageWithProposals')]


def draw(path, exif=None, size=(60, 100)):
    img = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = OBJECT
    img[y1:y2, x1:x2] = 255
    options = {} if exif is None else dict(exif=exif)
    Image.fromarray(img).save(path, **options)


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'images').mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(tmp_path / 'images/rotated.png', exif)
    draw(tmp_path / 'images/upright.png', exif)
    draw(tmp_path / 'images/equal.png')
    draw(tmp_path / 'images/scaled.png')
    draw(tmp_path / 'images/stretched.png')
    rgba = Image.open(tmp_path / 'images/equal.png')
    rgba.putalpha(100)
    rgba.save(tmp_path / 'images/alpha.png')
    assert cv2.imwrite(str(tmp_path / 'images/deep.png'), np.arange(6000, dtype=np.uint16).reshape(60, 100))
    (tmp_path / 'images/broken.png').write_bytes((tmp_path / 'images/equal.png').read_bytes()[:-40])
    names = sorted(path.name for path in (tmp_path / 'images').iterdir())
    sizes = {'upright.png': (60, 100), 'scaled.png': (50, 30), 'stretched.png': (100, 100)}
    boxes = {'upright.png': [35, 70, 20, 25], 'scaled.png': [35, 2.5, 12.5, 10]}
    images = [
        dict(id=n, file_name=name, width=sizes.get(name, (100, 60))[0], height=sizes.get(name, (100, 60))[1])
        for n, name in enumerate(names)
    ]
    annotations = [
        dict(
            image_id=n, category_id=1, bbox=boxes.get(name, [70, 5, 25, 20]), score=0.9, iscrowd=int(name == 'deep.png')
        )
        for n, name in enumerate(names)
    ]
    images[names.index('scaled.png')].update(width=50, height=30)
    content = dict(images=images, categories=[dict(id=1, name='ship')], annotations=annotations)
    (tmp_path / 'proposals.json').write_text(json.dumps(content))
    records = [dict(filename=name, split='test', sentences=[dict(raw='a ship')]) for name in names]
    (tmp_path / 'captions.json').write_text(json.dumps({'images': records}))
    return tmp_path


def test_changes_are_counted_and_refusals_are_problems(root, capsys):
    dataset = dict(type='ImageTextDataset', ann_file='captions.json', split='test', data_root=f'{root}/')
    problems = check(Config(dict(test_dataloader=dict(dataset=dataset))))
    assert len(problems) == 1
    assert 'unreadable' in problems[0]
    assert f'{root}/images/broken.png' in problems[0]
    out = capsys.readouterr().out
    for line in (
        '1 images: alpha left out (such as alpha.png)',
        '1 images: uint16 values stretched to 8 bit (such as deep.png)',
        '2 images: rotated by its EXIF data (such as rotated.png)',
        '1 images: proposals scaled to the size of the file (such as scaled.png: for (30, 50), the file is (60, 100))',
        '1 images: proposals rotated to the size of the file (such as rotated.png: for (60, 100)',
        '1 images: proposals stretched to the size of the file (such as stretched.png',
        '1 objects left out: 1 crowd (iscrowd)',
    ):
        assert line in out
    assert out.count(' images: ') == 6


@pytest.mark.parametrize('name', ['equal.png', 'rotated.png', 'upright.png', 'scaled.png'])
def test_boxes_are_on_their_objects(root, name):
    """Also where EXIF data rotates the image: on the upright grid, and on the stored one."""
    dataset = ImageTextDataset('captions.json', 'test', data_root=str(root), test_mode=True, pipeline=LOADING)
    sample = next(s for s in (dataset.get_data_info(n) for n in range(len(dataset))) if s['file_name'] == name)
    sample = dataset.pipeline(sample)
    ys, xs = np.nonzero(sample['img'][..., 0])
    assert sample['gt_bboxes'].tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


def test_a_stretch_is_logged_once(root, monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.utils.logging.print_log', lambda text, *_: logged.append(text))
    monkeypatch.setattr('galr_mm.utils.logging._LOGGED', set())
    dataset = ImageTextDataset('captions.json', 'test', data_root=str(root), test_mode=True, pipeline=LOADING)
    samples = {s['file_name']: s for s in (dataset.get_data_info(n) for n in range(len(dataset)))}
    for _ in range(2):
        dataset.pipeline(dict(samples['stretched.png']))
    assert len(logged) == 1
    assert 'stretched.png is (60, 100) (height, width), its proposals are for (100, 100)' in logged[0]


def small_set(tmp_path, names, split='train'):
    """A config of images that are there, which the captions call ``names``."""
    (tmp_path / 'images').mkdir()
    for number in range(len(names)):
        draw(tmp_path / f'images/{number}.png')
    records = [dict(filename=name, split=split, sentences=[dict(raw='a ship')]) for name in names]
    (tmp_path / 'captions.json').write_text(json.dumps({'images': records}))
    dataset = dict(type='galr_mm.ImageTextDataset', ann_file='captions.json', split='train', data_root=f'{tmp_path}/')
    loader = dict(batch_size=8, drop_last=True, num_workers=0, dataset=dataset)
    return Config(dict(train_dataloader=loader | dict(sampler=dict(type='DefaultSampler', shuffle=True))))


def test_fewer_captions_than_a_batch_are_a_problem(tmp_path, capsys):
    cfg = small_set(tmp_path, ['0.png', '1.png'])
    (problem,) = check(cfg)
    assert '2 training captions are fewer than one batch' in problem
    assert 'set train_dataloader.batch_size=1' in problem
    cfg.train_dataloader.drop_last = False
    assert check(cfg) == []
    assert 'train: 2 training captions are fewer than one batch' in capsys.readouterr().out


def test_many_missing_images_are_counted(tmp_path):
    problems = check(small_set(tmp_path, [f'images/{number}.png' for number in range(13)]))
    assert len(problems) == 12
    assert problems[0] == f'train: missing {tmp_path}/images/images/0.png'
    assert problems[10] == f'train: 3 more of 13 images are missing in {tmp_path}/images'
    assert 'file names are relative to' in problems[11]
    assert 'some begin with images/' in problems[11]


def test_bad_records_are_counted(tmp_path):
    (problem,) = check(small_set(tmp_path, ['0.png', '1.png', '2.png'], split='Train'))
    assert "images[0] ('0.png') has split 'Train'" in problem
    assert 'and 2 more of 3 have problems' in problem


def test_records_under_another_name(tmp_path):
    cfg = small_set(tmp_path, ['0.png'])
    content = json.loads((tmp_path / 'captions.json').read_text())
    (tmp_path / 'captions.json').write_text(json.dumps({'image': content['images']}))
    (problem,) = check(cfg)
    assert "with a list 'images': KeyError: 'images'; it has image." in problem
