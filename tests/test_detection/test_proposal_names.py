"""An image finds its proposals as a list finds an image: by name, else with another file type or Windows' folders."""

import json
import logging

import numpy as np
import pytest

from galr_mm.datasets import ImageTextDataset
from galr_mm.detection import ProposalSet
from galr_mm.imagery.files import ImageFolder


def write(path, names):
    """Proposals of 50 x 50 images; the n-th has n objects."""
    images = [dict(id=n, file_name=name, width=50, height=50) for n, name in enumerate(names, 1)]
    boxes = [dict(image_id=n, category_id=1, bbox=[5, 5, 40, 40]) for n in range(1, len(names) + 1) for _ in range(n)]
    path.write_text(json.dumps(dict(images=images, categories=[dict(id=1, name='ship')], annotations=boxes)))
    return path


def proposals(tmp_path, *names):
    return ProposalSet(write(tmp_path / 'p.json', names))


@pytest.mark.parametrize(
    ('listed', 'name'),
    [
        ('a.tif', 'a.jpg'),
        ('a.JPG', 'a.jpg'),
        ('a.v2', 'a.v2.jpg'),
        (r'sub\a.jpg', 'sub/a.jpg'),
        (r'sub\a.gif', 'sub/a.png'),
        ('sub/a.jpg', r'sub\a.jpg'),
        ('./sub//a.png', 'sub/a.jpg'),
    ],
)
def test_names(tmp_path, listed, name):
    found = proposals(tmp_path, 'other.jpg', listed)
    assert len(found.get(name)) == 2
    assert name in found
    assert found.absent([name]) == []


@pytest.mark.parametrize(('listed', 'name'), [('a.v2.jpg', 'a.jpg'), ('sub/a.jpg', 'a.jpg'), ('A.jpg', 'a.jpg')])
def test_other_images(tmp_path, listed, name):
    found = proposals(tmp_path, listed)
    assert found.get(name) is None
    assert found.absent([name]) == [name]


def test_a_name_that_is_the_same_comes_first(tmp_path):
    found = proposals(tmp_path, 'a.tif', 'a.jpg')
    assert [len(found.get(name)) for name in ('a.tif', 'a.jpg', './a.jpg')] == [1, 2, 2]
    for ask in (found.get, found.__contains__, lambda name: found.absent([name])):
        with pytest.raises(ValueError, match=r'p\.json has no a\.png, and a\.tif, a\.jpg could each be it'):
            ask('a.png')


def test_one_entry_is_not_two_images(tmp_path):
    with pytest.raises(ValueError, match=r'objects of a\.tif are those of more than one image, a\.png, a\.jpg'):
        proposals(tmp_path, 'a.tif').absent(['a.png', 'a.jpg'])


@pytest.mark.parametrize('other', ['./a/b.jpg', 'a//b.jpg', r'a\b.jpg', 'c/../a/b.jpg'])
def test_one_file_twice(tmp_path, other):
    with pytest.raises(ValueError, match=r"p\.json .*the file_name 'a/b\.jpg' and .*b\.jpg', which are one file"):
        proposals(tmp_path, 'a/b.jpg', other)


def test_absent_images_of_a_split_are_a_warning(mini, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.datasets.image_text.print_log', lambda text, _, *level: logged.append((text, *level)))
    names = ImageFolder(mini / 'images').names()
    settings = dict(
        ann_file=str(mini / 'dataset_mini.json'), split='train', data_prefix=dict(img_path=str(mini / 'images'))
    )
    data = ImageTextDataset(**settings, proposal_file=str(write(tmp_path / 'p.json', names)))
    used = sorted({sample['file_name'] for sample in map(data.get_data_info, range(len(data)))})
    assert logged[-1] == (
        f'train: proposals of {len(used)} of {len(used)} images from {tmp_path / "p.json"}',
        logging.INFO,
    )
    other = [name.replace('.jpg', '.tif').replace('.png', '.tif') for name in names if name not in used[:2]]
    data = ImageTextDataset(**settings, proposal_file=str(write(tmp_path / 'p.json', other)))
    text, level = logged[-1]
    assert level == logging.WARNING
    assert f'proposals of {len(used) - 2} of {len(used)} images from ' in text
    assert '; 2 are not in it and come without objects: ' in text
    assert all(name in text for name in used[:2])
    counts = {s['file_name']: len(s['detections']) for s in map(data.get_data_info, range(len(data)))}
    assert (np.array([counts[name] for name in used]) > 0).tolist() == [False, False, *[True] * (len(used) - 2)]
