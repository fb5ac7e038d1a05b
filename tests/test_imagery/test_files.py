import unicodedata

import pytest

from galr_mm.imagery import ImageFolder, list_images

NFC, NFD = (unicodedata.normalize(form, 'Z\u00fcrich') for form in ('NFC', 'NFD'))


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_is_searched_with_its_sub_folders(tmp_path):
    assert list_images(make(tmp_path, 'b.png', 'sub/a.JPG', 'notes.txt')) == (tmp_path, ['b.png', 'sub/a.JPG'])


def test_what_else_lies_in_a_folder(tmp_path):
    make(
        tmp_path / 'images',
        *('a.jpg', 'Thumbs.db', '.DS_Store', '._a.jpg', 'notes.txt', 'dataset.json', 'none', 'x.jpg/b.TIF'),
        *('.cache/c.jpg', '__MACOSX/d.jpg', '@eaDir/a.jpg/thumb.jpg'),
    )
    assert list_images(tmp_path / 'images')[1] == ['a.jpg', 'x.jpg/b.TIF']


def test_links_are_followed(tmp_path):
    images, elsewhere = make(tmp_path / 'images', 'a.jpg'), make(tmp_path / 'elsewhere', 'b.jpg', 'c.jpg')
    (images / 'sub').symlink_to(elsewhere)
    (images / 'd.jpg').symlink_to(elsewhere / 'c.jpg')
    (images / 'gone.jpg').symlink_to(elsewhere / 'gone.jpg')
    (images / 'again').symlink_to(images)
    (elsewhere / 'up').symlink_to(images)
    (tmp_path / 'link').symlink_to(images)
    for root in (images, tmp_path / 'link'):
        assert list_images(root)[1] == ['a.jpg', 'd.jpg', 'sub/b.jpg', 'sub/c.jpg']
    folder = ImageFolder(images)
    assert (folder.find('sub/b.jpg'), folder.find('again/a.jpg')) == ('sub/b.jpg', 'again/a.jpg')
    assert folder.find('gone.jpg') is None


@pytest.mark.parametrize(
    ('listed', 'found'),
    [
        ('a.jpg', 'a.jpg'),
        ('./sub//b.png', 'sub/b.png'),
        ('a.tif', 'a.jpg'),
        ('a', 'a.jpg'),
        ('sub\\b.png', 'sub/b.png'),
        ('upper.jpg', 'upper.JPG'),
        ('S2.v1.train', 'S2.v1.train.jpg'),
        ('S2.v1.train.gif', 'S2.v1.train.jpg'),
        ('S2.v1', None),
        ('S2.v2.train', None),
        ('exact', 'exact'),
        ('raw.npy', 'raw.npy'),
        ('raw.jpg', None),
        ('both.jpg', 'both.jpg'),
        (f'{NFC}/{NFC}.jpg', f'{NFD}/{NFD}.jpg'),
        (f'{NFC}/{NFC}.tif', f'{NFD}/{NFD}.jpg'),
        ('nowhere/a.jpg', None),
        ('a.jpg/a.jpg', None),
        ('sub', None),
    ],
    ids=lambda value: ascii(value),
)
def test_one_file_by_its_names(tmp_path, listed, found):
    make(
        tmp_path,
        *('a.jpg', 'sub/b.png', 'upper.JPG', 'S2.v1.train.jpg', 'exact', 'exact.jpg', 'raw.npy'),
        *('both.jpg', 'both.JPG', '.hidden.jpg', f'{NFD}/{NFD}.jpg'),
    )
    assert ImageFolder(tmp_path).find(listed) == found


def test_names_that_are_not_one_file(tmp_path):
    folder = ImageFolder(make(tmp_path, 'a.jpg', 'a.png', 'b.jpg'))
    with pytest.raises(ValueError, match=r'a\.tif is not in .*, and a\.jpg, a\.png could each be it'):
        folder.find('a.tif')
    with pytest.raises(ValueError, match=r'b\.jpg in .* more than one of the listed images, b\.tif, b\.gif'):
        folder.locate([('b.tif',), ('b.gif',)])
    with pytest.raises(ValueError, match=r'b\.tif, b\.tif'):
        folder.locate([('b.tif',), ('b.tif',)])
    names = [(f'{index}.jpg',) for index in range(7)]
    with pytest.raises(
        FileNotFoundError, match=r'^7 of 8 test images are not in .*: 0\.jpg, .*4\.jpg, \.\.\..*docs/data'
    ):
        folder.locate([*names, ('b.jpg',)], 'test images')


def test_folder_of_a_karpathy_record(tmp_path):
    """As Karpathy's COCO json has it, with the images in these folders or without them."""
    path = _write(tmp_path / 'x.json', '{"images": [{"filepath": "val2014", "filename": "1.jpg"}]}')
    make(tmp_path / 'images', '1.jpg')
    assert list_images(path)[1] == ['1.jpg']
    make(tmp_path / 'images', 'val2014/1.jpg')
    assert list_images(path)[1] == ['val2014/1.jpg']


def test_images_of_a_json(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/a.jpg').write_text('')
    path = _write(tmp_path / 'x.json', '{"images": [{"filename": "a.jpg"}, {"file_name": "a.jpg"}]}')
    assert list_images(path) == (tmp_path / 'images', ['a.jpg'])
    assert list_images(path, tmp_path / 'images') == (tmp_path / 'images', ['a.jpg'])


@pytest.mark.parametrize(
    ('source', 'match'),
    [
        (lambda p: _write(p / 'x.json', '[{"image": "a.jpg"}]'), r'convert_captions.py .*x.json'),
        (lambda p: _write(p / 'x.json', '{"images": [{"file_name": 5}]}'), 'is 5 and .*expected strings'),
        (lambda p: p / 'nowhere', 'neither a folder nor a file'),
        (lambda p: p, 'no images'),
        (lambda p: _write(p / 'x.json', '{"photos": []}'), 'neither a Karpathy-style nor a COCO json'),
        (lambda p: _write(p / 'x.json', '{"images": []}'), 'lists no images'),
        (lambda p: _write(p / 'x.json', '{"images": [{"file_name": "a.jpg"}]}'), 'no image folder'),
    ],
)
def test_bad_sources(tmp_path, source, match):
    with pytest.raises((OSError, ValueError), match=match):
        list_images(source(tmp_path))


def _write(path, text):
    path.write_text(text)
    return path
