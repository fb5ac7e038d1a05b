import pytest

from galr_mm.imagery import list_images


def test_a_folder_is_searched_with_its_sub_folders(tmp_path):
    (tmp_path / 'sub').mkdir()
    for name in ('b.png', 'sub/a.JPG', 'notes.txt'):
        (tmp_path / name).write_text('')
    assert list_images(tmp_path) == (tmp_path, ['b.png', 'sub/a.JPG'])


def test_images_of_a_json(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/a.jpg').write_text('')
    path = _write(tmp_path / 'x.json', '{"images": [{"filename": "a.jpg"}, {"file_name": "a.jpg"}]}')
    assert list_images(path) == (tmp_path / 'images', ['a.jpg'])
    assert list_images(path, tmp_path / 'images') == (tmp_path / 'images', ['a.jpg'])


@pytest.mark.parametrize(
    ('make', 'match'),
    [
        (lambda p: p / 'nowhere', 'neither a folder nor a file'),
        (lambda p: p, 'no images'),
        (lambda p: _write(p / 'x.json', '{"photos": []}'), 'neither a Karpathy-style nor a COCO json'),
        (lambda p: _write(p / 'x.json', '{"images": []}'), 'lists no images'),
        (lambda p: _write(p / 'x.json', '{"images": [{"file_name": "a.jpg"}]}'), 'no image folder'),
    ],
)
def test_bad_sources(tmp_path, make, match):
    with pytest.raises((OSError, ValueError), match=match):
        list_images(make(tmp_path))


def _write(path, text):
    path.write_text(text)
    return path
