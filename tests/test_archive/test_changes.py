"""An archive changes, and its index follows without encoding what it has."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from galr_mm.archive import (
    ArchiveIndex,
    Box,
    Cut,
    Description,
    Encoded,
    FileState,
    export_hits,
    open_writer,
    read_metadata,
)
from galr_mm.archive import changes as changes_module
from galr_mm.archive.records import tile_id
from galr_mm.imagery import Window
from tests.test_archive.helpers import MODEL, Encoder, content, draw, find, update, vector


@pytest.fixture
def archive(tmp_path):
    for number in range(7):
        draw(tmp_path / 'archive' / f'{number % 3}' / f'{number}.png', number)
    return tmp_path / 'archive'


@pytest.fixture
def index(tmp_path, archive):
    update(tmp_path / 'index', archive)
    return tmp_path / 'index'


def files(index):
    with ArchiveIndex(index) as opened:
        return {os.fsdecode(path): known.status for path, known in opened.catalog.sources().items()}


def test_a_new_archive(tmp_path, archive):
    encode = Encoder()
    report = update(tmp_path / 'index', archive, encode)
    assert (report.added, report.kept, report.tiles, encode.seen, report.skipped) == (7, 0, 7, 7, [])
    assert sorted(path.name for path in (tmp_path / 'index').rglob('*.f32')) == ['00000.f32', '00001.f32']
    import mmcv

    path = archive / '1/4.png'
    (hit,) = find(tmp_path / 'index', vector(mmcv.imread(str(path)).tobytes()), k=1)
    assert hit.path == str(path)
    assert hit.score == pytest.approx(1)
    assert hit.window == (0, 0, 8, 6)
    assert hit.is_whole
    assert hit.footprint is None


def test_nothing_changed(index, archive):
    encode = Encoder()
    before = content(index)
    report = update(index, archive, encode)
    assert (report.kept, report.added, encode.seen) == (7, 0, 0)
    assert content(index) == before


def test_new_changed_touched_and_moved(index, archive):
    draw(archive / 'new.png', 50)
    draw(archive / '0/0.png', 51, size=(9, 9))
    os.utime(archive / '1/1.png', ns=(5, 5))
    (archive / '2/2.png').rename(archive / 'elsewhere.png')
    encode = Encoder()
    report = update(index, archive, encode)
    assert (report.kept, report.added, report.changed, report.touched, report.moved) == (4, 1, 1, 1, 1)
    assert encode.seen == 2
    fresh = index.with_name('fresh')
    update(fresh, archive)
    assert content(index) == content(fresh)
    assert update(index, archive, encode).kept == 8
    assert encode.seen == 2


def test_a_file_moves_onto_another(index, archive):
    (archive / '0/0.png').replace(archive / '1/1.png')
    encode = Encoder()
    report = update(index, archive, encode)
    assert (report.moved, report.gone, report.kept, encode.seen) == (1, 0, 5, 0)
    update(index.with_name('fresh'), archive)
    assert content(index) == content(index.with_name('fresh'))


def test_two_files_change_places(index, archive):
    a, b, third = archive / '0/0.png', archive / '1/1.png', archive / 'third'
    a.rename(third)
    b.rename(a)
    third.rename(b)
    os.utime(a, ns=(7, 7))
    report = update(index, archive)
    assert report.kept + report.changed == 7
    update(index.with_name('fresh'), archive)
    assert content(index) == content(index.with_name('fresh'))


def test_vanished_files_are_hidden_and_come_back(index, archive, tmp_path):
    before = content(index)
    shutil.move(archive / '2', tmp_path / 'aside')
    report = update(index, archive)
    assert (report.gone, report.kept) == (2, 5)
    assert len(content(index)) == 5
    assert update(index, archive).gone == 0
    shutil.move(tmp_path / 'aside', archive / '2')
    encode = Encoder()
    report = update(index, archive, encode)
    assert (report.returned, report.kept, encode.seen) == (2, 7, 0)
    assert content(index) == before


def test_a_vanished_file_comes_back_changed(index, archive):
    (archive / '0/0.png').unlink()
    update(index, archive)
    draw(archive / '0/0.png', 99)
    assert update(index, archive).changed == 1
    update(index.with_name('fresh'), archive)
    assert content(index) == content(index.with_name('fresh'))


def test_prune(index, archive):
    shutil.rmtree(archive / '2')
    report = update(index, archive, prune=True)
    assert (report.gone, report.pruned) == (2, 2)
    assert len(files(index)) == 5
    with open_writer(index) as writer:
        assert writer.compact() == 2
        assert writer.compact() == 0
    update(index.with_name('fresh'), archive)
    assert content(index) == content(index.with_name('fresh'))


def test_prune_does_not_empty_an_index(index, archive):
    """A disk that is not mounted."""
    for path in sorted(archive.rglob('*.png'))[:4]:
        path.unlink()
    with pytest.raises(ValueError, match=r'4 of 7 files .* too many to be\s+deleted.*mounted'):
        update(index, archive, prune=True)
    assert sorted(files(index).values()) == ['gone'] * 4 + ['ok'] * 3


def test_another_folder_or_none(index, archive, tmp_path):
    with pytest.raises(FileNotFoundError, match='no archive folder at .*nowhere'):
        update(index, tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='no images'):
        update(index, tmp_path / 'empty')
    assert len(content(index)) == 7
    shutil.copytree(archive, tmp_path / 'copy')  # with its times
    encode = Encoder()
    assert update(index, tmp_path / 'copy', encode).kept == 7
    assert encode.seen == 0
    assert find(index, vector(0), k=1)[0].path.startswith(f'{tmp_path}/copy/')


def test_skipped_files_are_listed_with_their_reason(tmp_path):
    archive = tmp_path / 'archive'
    good = draw(archive / 'good.png', 1)
    (archive / 'empty.jpg').touch()
    (archive / 'text.png').write_text('no image')
    (archive / 'cut.png').write_bytes(good.read_bytes()[:60])
    shutil.copy(good, archive / 'wrong_suffix.jpg')
    (archive / 'notes.txt').write_text('not an image by its name')
    (archive / 'dead.png').symlink_to(archive / 'nothing')
    Image.fromarray(np.zeros((4, 5, 4), np.uint8), 'CMYK').save(archive / 'cmyk.jpg')
    frames = [Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in (0, 90)]
    frames[0].save(archive / 'animated.png', save_all=True, append_images=frames[1:])
    report = update(tmp_path / 'index', archive)
    reasons = {name: reason for name, reason in report.skipped if name != 'dead.png'}  # a listing may leave it out
    assert set(reasons) == {'empty.jpg', 'text.png', 'cut.png'}
    assert all(reasons.values())
    assert set(files(tmp_path / 'index')) == {*reasons, 'good.png', 'wrong_suffix.jpg', 'cmyk.jpg', 'animated.png'}
    assert report.added == 4
    again = update(tmp_path / 'index', archive)
    assert {name for name, _ in again.skipped} - {'dead.png'} == set(reasons)
    assert (again.kept, again.added) == (4, 0)
    shutil.copy(good, archive / 'empty.jpg')
    assert update(tmp_path / 'index', archive).added == 1
    (archive / 'text.png').unlink()
    assert update(tmp_path / 'index', archive).gone == 0
    assert 'text.png' not in files(tmp_path / 'index')


@pytest.mark.parametrize('cut', [Cut(), Cut(64)], ids=str)
def test_a_bomb_is_named_and_left_out(tmp_path, cut):
    """A small file of very many pixels."""
    archive = tmp_path / 'archive'
    draw(archive / 'good.png')
    rows = zlib.compress(bytes((30000 // 8 + 1) * 20000))
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', 30000, 20000, 1, 0, 0, 0, 0)), (b'IDAT', rows), (b'IEND', b'')]
    framed = (struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k, d in chunks)
    (archive / 'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(framed))
    encode = Encoder()
    report = update(tmp_path / 'index', archive, encode, cut)
    assert report.added == 1
    assert encode.seen == 1
    ((name, reason),) = report.skipped
    assert name == 'bomb.png'
    assert '30000 x 20000 pixels, more than' in reason


def test_a_file_that_changes_while_it_is_read_waits_for_the_next_update(tmp_path, archive):
    class Meddling(Encoder):
        def one(self, piece):
            if piece.content.name == '3.png' and not self.done:
                self.done = True
                draw(piece.content, 77, size=(7, 7))
            if piece.content.name == '5.png':
                piece.content.unlink()
            return super().one(piece)

        done = False

    encode = Meddling()
    report = update(tmp_path / 'index', archive, encode, batch_size=2)
    reasons = dict(report.skipped)
    assert set(reasons) == {'0/3.png', '2/5.png'}
    assert 'changed while' in reasons['0/3.png']
    assert 'No such file' in reasons['2/5.png']
    assert report.added == 5
    assert update(tmp_path / 'index', archive).added == 1
    update(tmp_path / 'fresh', archive)
    assert content(tmp_path / 'index') == content(tmp_path / 'fresh')


def test_vectors_that_are_not_numbers(tmp_path, archive):
    class Broken(Encoder):
        def one(self, piece):
            found = super().one(piece)
            return Encoded(found.vector * np.nan) if piece.content.name == '2.png' else found

    report = update(tmp_path / 'index', archive, Broken())
    assert report.skipped == [('2/2.png', 'the model gives no finite vector for it')]
    assert report.added == 6


def test_an_error_of_the_model_is_not_a_skipped_file(tmp_path, archive):
    def broken(pieces):
        raise RuntimeError('shapes do not fit')

    with pytest.raises(RuntimeError, match='shapes do not fit'):
        update(tmp_path / 'index', archive, broken)
    assert not content(tmp_path / 'index')
    assert update(tmp_path / 'index', archive).added == 7


NAMES = [
    b'with space.png',
    b'quo\'te".png',
    b'new\nline.png',
    b'caf\xc3\xa9.png',
    b'not utf8 \xff\xfe.png',
    b'100%; DROP.png',
]


def test_odd_names(tmp_path):
    archive = tmp_path / 'archive'
    for number, name in enumerate(NAMES):
        shutil.move(draw(archive / 'x.png', number), os.path.join(os.fsencode(archive), name))
    report = update(tmp_path / 'index', archive)
    assert report.added == len(NAMES)
    assert not report.skipped
    hits = find(tmp_path / 'index', vector(0), k=10)
    assert {os.fsencode(os.path.basename(hit.path)) for hit in hits} == set(NAMES)
    assert all(os.path.exists(hit.path) for hit in hits)
    assert len({hit.tile_id for hit in hits}) == len(NAMES)
    assert update(tmp_path / 'index', archive).kept == len(NAMES)


def test_links(index, archive):
    (archive / 'loop').symlink_to(archive)
    (archive / '0/link.png').symlink_to(archive / '1/1.png')
    report = update(index, archive)
    assert report.kept == 7
    assert report.added >= 1  # the linked file; the loop ends


def test_a_link_to_itself_is_skipped(index, archive):
    for name in ('loop.png', '0/loop.png', '0/loop.json'):
        (archive / name).symlink_to(os.path.basename(name))
    report = update(index, archive)
    assert report.kept == 7
    assert [name for name, reason in report.skipped if 'symbolic links' in reason] == ['0/loop.png', 'loop.png']


def test_an_index_inside_of_its_archive(archive):
    draw(archive / 'index/sheet.png', 3)
    (archive / 'index/sheet.png').rename(archive / 'sheet.png')
    assert update(archive / 'index', archive).added == 8
    draw(archive / 'index/sheets/sheet.png', 4)
    assert update(archive / 'index', archive).added == 0


def test_tiles(tmp_path):
    archive, cut = tmp_path / 'archive', Cut(10, 4)
    draw(archive / 'large.png', 1, size=(15, 20))
    draw(archive / 'small.png', 2, size=(10, 7))
    encode = Encoder(boxes=[Box(1, 2, 3, 4, 0.5, 'tank')])
    report = update(tmp_path / 'index', archive, encode, cut, batch_size=4)
    assert (report.added, report.tiles, encode.seen) == (2, 7, 7)
    hits = {hit.tile_id: hit for hit in find(tmp_path / 'index', vector(0), k=100)}
    window = Window(10, 5, 20, 15)
    hit = hits[tile_id(b'large.png', window)]
    assert hit.window == window
    assert hit.boxes == (Box(11, 7, 13, 9, 0.5, 'tank'),)
    assert not hit.is_whole
    with pytest.raises(ValueError, match='made with cut 10 pixels, overlap 4, got whole images'):
        update(tmp_path / 'index', archive)


def test_an_image_that_is_rotated_by_its_exif_data(tmp_path):
    """Its size, its tiles and its sheet are those of the upright image."""
    archive, exif = tmp_path / 'archive', Image.Exif()
    archive.mkdir()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((12, 30, 3), np.uint8)).save(archive / 'rotated.jpg', exif=exif)
    report = update(tmp_path / 'index', archive, cut=Cut(12))
    assert report.tiles == 3
    hits = find(tmp_path / 'index', vector(0), k=9)
    assert {hit.image_size for hit in hits} == {(30, 12)}
    assert {hit.window for hit in hits} == {(0, 0, 12, 12), (0, 12, 12, 24), (0, 18, 12, 30)}
    export_hits([('all', hits)], tmp_path / 'hits.html')
    assert (tmp_path / 'hits.html').read_text().count('data:image/jpeg') == 3


@pytest.mark.parametrize(('tile', 'overlap'), [(0, 0), (5, 5), (5, -1), (None, -1), (None, 5)])
def test_tiles_that_would_not_move_on(tile, overlap):
    with pytest.raises(ValueError, match=f'overlap is {overlap} (and|without a) tile.*, expected 0'):
        Cut(tile, overlap)


def test_a_run_that_is_stopped_goes_on(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(changes_module, 'COMMIT_TILES', 2)

    class Stopped(Encoder):
        def one(self, piece):
            if self.seen == 5:
                raise KeyboardInterrupt
            return super().one(piece)

    with pytest.raises(KeyboardInterrupt):
        update(tmp_path / 'index', archive, Stopped(), batch_size=1)
    done = len(content(tmp_path / 'index'))
    assert 2 <= done < 6
    encode = Encoder()
    report = update(tmp_path / 'index', archive, encode)
    assert (report.kept, report.added, encode.seen) == (done, 7 - done, 7 - done)


def test_descriptions(index, archive):
    table = index.with_name('table.csv')
    table.write_text(
        'path,datetime,platform,gsd,west,south,east,north,season\n'
        '0/0.png,2021-06-01T10:00:00Z,GF-2,0.8,10,20,11,21,dry\n'
        './1/1.png,2021-06-02,,,179,0,-179,1,\n'
    )
    encode = Encoder()
    descriptions = read_metadata(table)
    assert descriptions[b'0/0.png'] == Description(1622541600000, 'GF-2', 0.8, (10, 20, 11, 21), dict(season='dry'))
    update(index, archive, encode, descriptions=descriptions)
    assert encode.seen == 0
    hits = {os.path.relpath(hit.path, archive): hit for hit in find(index, vector(0), k=10)}
    hit = hits['0/0.png']
    assert (hit.time, hit.platform, hit.gsd, hit.metadata) == ('2021-06-01T10:00:00Z', 'GF-2', 0.8, dict(season='dry'))
    assert hit.footprint['coordinates'] == [[[10, 20], [11, 20], [11, 21], [10, 21], [10, 20]]]
    assert hits['1/1.png'].footprint['type'] == 'MultiPolygon'
    assert hits['2/2.png'].footprint is None
    draw(archive / '0/0.png', 60)  # what is known of a file outlives a change of it
    update(index, archive)
    hits = {os.path.relpath(hit.path, archive): hit for hit in find(index, vector(0), k=10)}
    assert hits['0/0.png'].footprint == hit.footprint
    assert hits['0/0.png'].platform == 'GF-2'


def test_spaces_around_cells_and_rows_of_no_file(index, archive):
    table = index.with_name('table.csv')
    table.write_text('path, season\n 0/0.png , dry\n0\\3.png,wet\n/1/1.png,wet\n')
    descriptions = read_metadata(table)
    assert descriptions[b'0/0.png'] == Description(metadata=dict(season='dry'))
    report = update(index, archive, descriptions=descriptions)
    assert report.unmatched == ['0\\3.png', '/1/1.png']
    assert r"2 rows of the table without a file in the archive, first '0\\3.png'" in str(report)
    assert update(index, archive).unmatched == []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name\nx\n', "columns .*'name'.*, expected path"),
        ('path,gsd\nx,wide\n', r"line 2: gsd is 'wide', expected a number"),
        ('path,gsd\nx,nan\n', r"line 2: gsd is 'nan'"),
        ('path,datetime\nx,today\n', "line 2: datetime is 'today', expected a date"),
        ('path,datetime\nx,0001-01-01T00:00:00+10:00\n', 'line 2: datetime .* of the years 1 to 9999 UTC'),
        ('path,datetime\nx,9999-12-31T23:59:59-05:00\n', 'line 2: datetime .* of the years 1 to 9999 UTC'),
        ('path,west\nx,1\n', 'line 2: 1 of west, south, east, north'),
        ('path,west,south,east,north\nx,1,2,3,100\n', 'line 2: place is .*expected west'),
        ('path\nx,1\n', 'line 2: 2 cells, expected 1 as in the first line'),
        ('path,gsd,note\nx,1,a\ny,2\n', 'line 3: 2 cells, expected 3 as in the first line'),
        ('path,gsd\nx,1\ny,2\n./x,3\n', r"line 4: path is '\./x', which line 2 describes too"),
        ('path,gsd\nx,0\n', "line 2: gsd is '0', expected a number above 0"),
        ('path,gsd\nx,-1\n', "line 2: gsd is '-1', expected a number above 0"),
        ('path,gsd, gsd\nx,1,2\n', r"more than one column \['gsd'\]"),
        ('path,gsd\n,1\n', 'line 2: no path'),
        ('path,note\nx,"a\ny,b\nz,"c"\n', r'table.csv line 2 is not a row of a table: .*double quote'),
        ('path,note\nx,a\n\ny,"b\n', 'table.csv line 4 is not a row of a table'),
        ('path,gsd,gsd\nx,1,2\n', r"more than one column \['gsd'\]"),
        ('path,gsd\n', 'has no row below its columns'),
    ],
    ids=[
        'columns',
        'number',
        'nan',
        'date',
        'before',
        'after',
        'half',
        'degrees',
        'cells',
        'cut off',
        'again',
        'zero',
        'negative',
        'spaces',
        'path',
        'quote',
        'end',
        'twice',
        'no rows',
    ],
)
def test_tables_that_are_not_understood(tmp_path, text, message):
    (tmp_path / 'table.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metadata(tmp_path / 'table.csv')


def test_file_state_is_that_of_the_target(tmp_path):
    path = draw(tmp_path / 'a.png')
    (tmp_path / 'b.png').symlink_to(path)
    assert FileState.of(tmp_path / 'b.png') == FileState.of(path)


def test_another_model_is_refused(index, archive):
    other = MODEL._replace(fingerprint='b' * 64, words='another hash')
    with pytest.raises(ValueError, match='of another model: a hash, fingerprint aaaa.*; this one is another hash'):
        update(index, archive, model=other)
    assert len(content(index)) == 7
