"""An index on disk survives its writers: killed, out of disk, two at a time, or of another model."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import numpy as np
import pytest
from tqdm import tqdm

from galr_mm.archive import ArchiveIndex, Description, Where, check_index, open_writer
from galr_mm.archive import changes as changes_module
from galr_mm.archive.catalog import NAME
from galr_mm.archive.search import nearest
from galr_mm.cli.archive import main
from tests.test_archive.helpers import MODEL, content, draw, entry, fill, find, reading, update, vector


@pytest.fixture
def index(tmp_path):
    fill(tmp_path / 'index', [vector(n) for n in range(12)])
    return tmp_path / 'index'


def killed(action, delay):
    """Run in a fork that is killed after so many seconds; gives whether it had ended by itself."""
    child = os.fork()
    if not child:
        code = 1
        tqdm.set_lock(threading.RLock())  # its own is shared between forks, and would stay locked after a kill
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    end, ended = time.monotonic() + delay, 0
    while not ended and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0002)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code == 0


def is_whole(index):
    with ArchiveIndex(index) as opened:
        return check_index(opened, queries=5).problems == []


def duration(action):
    start = time.monotonic()
    assert killed(action, 60)
    return time.monotonic() - start


@pytest.mark.parametrize('part', [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 7))])
def test_killed_while_indexing(tmp_path, monkeypatch, part):
    """At random moments; each run goes on from the last commit, and the last index is that of an undisturbed run."""
    monkeypatch.setattr(changes_module, 'COMMIT_TILES', 3)
    archive = tmp_path / 'archive'
    for number in range(25):
        draw(archive / f'{number}.png', number)
    whole = duration(lambda: update(tmp_path / 'undisturbed', archive))
    expected = content(tmp_path / 'undisturbed')
    rng, kills, before, attempt = random.Random(part), 0, 0, 0
    while kills < 8:
        attempt += 1
        assert attempt < 200
        ended = killed(lambda: update(tmp_path / 'index', archive), rng.uniform(0, whole))
        kills += not ended
        if (tmp_path / 'index' / NAME).is_file():
            now = content(tmp_path / 'index')
            assert now.items() <= expected.items()
            assert len(now) >= before
            before = len(now)
            if attempt % 4 == 0:
                assert is_whole(tmp_path / 'index')
        if ended:  # once more from the start, so that more moments are met
            shutil.rmtree(tmp_path / 'index')
            before = 0
            whole *= 0.95  # the first run may have taken longer than others do
    update(tmp_path / 'index', archive)
    assert content(tmp_path / 'index') == expected
    assert is_whole(tmp_path / 'index')


@pytest.mark.slow
def test_killed_while_compacting(tmp_path):
    first = tmp_path / 'first'
    fill(first, [vector(n) for n in range(120)], shard_rows=20)
    with open_writer(first) as writer, writer.catalog.transaction():
        writer.catalog.delete([known.id for known in list(writer.catalog.sources().values())[::3]])
    expected = content(first)

    def compact(index):
        with open_writer(index) as writer:
            writer.compact()

    shutil.copytree(first, tmp_path / 'undisturbed')
    whole = duration(lambda: compact(tmp_path / 'undisturbed'))
    assert content(tmp_path / 'undisturbed') == expected
    rng, kills, sizes = random.Random(0), 0, set()
    for _ in range(400):
        index = tmp_path / 'index'
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(first, index)
        ended = killed(lambda: compact(tmp_path / 'index'), rng.uniform(0, whole))
        kills += not ended
        whole *= 0.95 if ended else 1  # the first run may have taken longer than others do
        assert content(index) == expected
        with ArchiveIndex(index) as opened:
            sizes.add(opened.catalog.rows())
            assert opened.catalog.rows() in (80, 120)
        compact(index)
        assert content(index) == expected
        assert is_whole(index)
        assert len(list((index / 'vectors').iterdir())) == 4
        if kills == 50:
            break
    assert kills == 50
    assert 120 in sizes


def test_stopped_between_vectors_and_catalogue(index, monkeypatch):
    before = content(index)
    with open_writer(index) as writer:
        monkeypatch.setattr(writer.catalog, 'put', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.put([entry(50 + n, vector(50 + n)) for n in range(9)])
    assert len(list((index / 'vectors').iterdir())) == 5
    assert content(index) == before
    monkeypatch.undo()
    fill(index, [vector(90 + n) for n in range(4)], first=90)
    assert len(list((index / 'vectors').iterdir())) == 4  # what was left over is gone
    assert len(content(index)) == 16
    assert is_whole(index)
    assert before.items() <= content(index).items()


def test_the_next_batch_takes_the_place_of_one_that_failed(index, monkeypatch):
    """By the same writer, without opening the index anew."""
    with open_writer(index) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(writer.catalog, 'put', lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                writer.put([entry(50 + n, vector(50 + n)) for n in range(9)])
        writer.put([entry(70 + n, vector(70 + n)) for n in range(2)])
    assert len(content(index)) == 14
    assert is_whole(index)


def test_one_writer_at_a_time(index):
    with open_writer(index), pytest.raises(BlockingIOError, match='another run is writing .*index'), open_writer(index):
        pass
    with open_writer(index) as writer:
        assert writer.compact() == 0


def test_a_reader_beside_a_writer(index):
    """It sees one state from the beginning of its look to the end, and the new one at the next."""
    with ArchiveIndex(index) as opened:
        with opened.snapshot() as snapshot:
            fill(index, [vector(100)], first=100)
            assert opened.catalog.rows() == snapshot.rows == 12
            found = nearest(snapshot, vector(100)[None], 12)
            assert found.scores.max() < 0.999
        with opened.snapshot() as snapshot:
            assert nearest(snapshot, vector(100)[None], 1).scores[0, 0] == pytest.approx(1)
            hidden = opened.catalog.tiles([3])[3].tile_id
        with open_writer(index) as writer, writer.catalog.transaction():
            writer.catalog.hide([4])
        with opened.snapshot() as snapshot:
            assert hidden not in {tile.tile_id for tile in opened.catalog.tiles(live(snapshot)).values()}


def live(snapshot):
    return np.setdiff1d(np.arange(snapshot.rows), snapshot.not_live)


def test_a_reader_during_a_compaction(index):
    with ArchiveIndex(index) as opened, ArchiveIndex(index) as late:
        with opened.snapshot() as snapshot:
            with open_writer(index) as writer:
                with writer.catalog.transaction():
                    writer.catalog.delete([2, 3])
                assert writer.compact() == 2
            assert snapshot.vectors(np.arange(12))[4].tobytes() == vector(4).tobytes()  # files that are gone by name
        for reader in (opened, late):
            with reader.snapshot() as snapshot:
                assert snapshot.rows == 10
                assert snapshot.vectors(np.arange(10))[2].tobytes() == vector(4 - 1 + 1).tobytes()


def test_a_reader_that_comes_between_catalogue_and_files_looks_again(index, monkeypatch):
    with ArchiveIndex(index) as opened:
        real, calls = opened.shards.map, []

        def gone_at_first(file, rows):
            calls.append(file)
            if len(calls) == 1:
                raise FileNotFoundError(file)
            return real(file, rows)

        monkeypatch.setattr(opened.shards, 'map', gone_at_first)
        with opened.snapshot() as snapshot:
            assert snapshot.rows == 12
        assert len(calls) > 1


def test_missing_or_short_vectors_are_an_error(index):
    (index / 'vectors/00001.f32').rename(index / 'aside')
    with ArchiveIndex(index) as opened, pytest.raises(FileNotFoundError), opened.snapshot():
        pass
    (index / 'aside').rename(index / 'vectors/00001.f32')
    os.truncate(index / 'vectors/00001.f32', 40)
    with ArchiveIndex(index) as opened, pytest.raises(ValueError, match='00001.f32 holds 40 bytes'), opened.snapshot():
        pass


@pytest.mark.parametrize('command', ['index', 'compact'])
def test_a_writer_does_not_fill_a_short_file_with_zeros(index, command):
    """What is missing before the next vector would be a hole in the file, which reads as zeros."""
    os.truncate(index / 'vectors/00002.f32', 40)
    with pytest.raises(ValueError, match='00002.f32 holds 40 bytes, fewer than 2 vectors of 8 float32'):  # noqa: PT012
        if command == 'index':
            fill(index, [vector(100)], first=100)
        with open_writer(index) as writer:
            writer.compact()
    assert (index / 'vectors/00002.f32').stat().st_size == 40
    with pytest.raises(SystemExit, match='00002.f32 holds 40 bytes'):
        main(['compact', str(index)])


def test_copied_elsewhere(index, tmp_path):
    shutil.copytree(index, tmp_path / "else where'/x")
    index.rename(tmp_path / 'old')
    assert content(tmp_path / "else where'/x") == content(tmp_path / 'old')
    fill(tmp_path / "else where'/x", [vector(70)], first=70)
    assert len(content(tmp_path / "else where'/x")) == 13


def test_read_where_nothing_can_be_written(index):
    """Without the files that SQLite's log would need."""
    opened = ArchiveIndex(index)
    opened.close()
    for name in (f'{NAME}-wal', f'{NAME}-shm'):
        (index / name).unlink(missing_ok=True)
        (index / name).mkdir()  # so that even root cannot make the file
    assert len(content(index)) == 12


def test_changes_in_a_log_that_cannot_be_read_are_an_error(index, small_disk):
    """A copy of an index that was open: without the log it is older, and the log needs a file beside it."""
    copy = small_disk / 'copy'
    with open_writer(index) as writer:
        writer.put([entry(70, vector(70))])
        shutil.copytree(index, copy)
    assert (copy / f'{NAME}-wal').stat().st_size
    (copy / f'{NAME}-shm').unlink()
    subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
    with pytest.raises(OSError, match=f'its last changes are in {NAME}-wal'):
        ArchiveIndex(copy)
    subprocess.run(['mount', '-o', 'remount,rw', small_disk], check=True)
    assert len(content(copy)) == 13


def test_another_model_another_format_another_file(index, tmp_path):
    other = MODEL._replace(fingerprint='b' * 64, words='CLIP')
    with (
        pytest.raises(ValueError, match='of another model: a hash, fingerprint aaaaaaaaaaaa; this one is CLIP'),
        open_writer(index, other),
    ):
        pass
    with sqlite3.connect(index / NAME) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(ValueError, match=r'is of format 99, this version of galr_mm reads format 2'):
        ArchiveIndex(index)
    (tmp_path / 'text').mkdir()
    (tmp_path / 'text' / NAME).write_text('no database, but long enough to look like one' * 100)
    with pytest.raises(ValueError, match='cannot be read as the catalogue of an archive: file is not a database'):
        ArchiveIndex(tmp_path / 'text')
    how = f'no archive index at .*nothing: it has no {NAME}; make one: archive.py index IMAGES --index .*nothing'
    with pytest.raises(FileNotFoundError, match=how):
        ArchiveIndex(tmp_path / 'nothing')
    with pytest.raises(FileNotFoundError, match=how), open_writer(tmp_path / 'nothing'):
        pass
    assert not (tmp_path / 'nothing').exists()


@pytest.mark.parametrize(
    ('sql', 'message'),
    [
        ("DELETE FROM meta WHERE key = 'dim'", 'dim of meta is None, expected a whole number'),
        ("UPDATE meta SET value = 'x' WHERE key = 'dim'", "dim of meta is 'x', expected a whole number"),
        ("UPDATE meta SET value = '0' WHERE key = 'shard_rows'", "shard_rows of meta is '0'"),
        ("UPDATE meta SET value = 'zz' WHERE key = 'archive'", "archive of meta is 'zz', expected the bytes"),
        ("DELETE FROM meta WHERE key != 'format'", 'dim of meta is None'),
        ("UPDATE meta SET value = '' WHERE key = 'fingerprint'", "fingerprint of meta is ''"),
        ("UPDATE meta SET value = x'00ff' WHERE key = 'model'", 'model of meta is b'),
        ('DELETE FROM shard WHERE position = 1', r'table shard has \[0, 2\] for 12 rows, 5 a file'),
        ("UPDATE tile SET boxes = '[[1]]' WHERE row = 3", r"tile 00003-\w+/0-0-8-6: ValueError: boxes is '\[\[1\]\]'"),
        ("UPDATE source SET metadata = '{' WHERE path = CAST('00003.png' AS BLOB)", r"tile 00003-.*metadata is '{'"),
        ("UPDATE tile SET top = 'x' WHERE row = 3", 'tile 00003-.*whole numbers'),
    ],
    ids=[
        'no dim',
        'dim',
        'shard rows',
        'archive',
        'no meta',
        'fingerprint',
        'blob',
        'shards',
        'boxes',
        'metadata',
        'top',
    ],
)
def test_a_damaged_catalogue_is_named(index, sql, message):
    with sqlite3.connect(index / NAME) as db:
        db.execute(sql)
    with pytest.raises(ValueError, match=rf'{NAME} is damaged.*{message}'):
        find(index, vector(3), k=12)
    for command in (['check'], ['info'], ['compact'], ['export', '--out', str(index / 'all.csv')]):
        try:
            main([command[0], str(index), *command[1:]])
        except SystemExit as error:
            assert '\n' not in str(error)  # noqa: PT017, not all commands read what is damaged
        else:
            assert command != ['check']


def test_damaged_vectors_name_their_file(index):
    with (index / 'vectors/00001.f32').open('r+b') as file:
        file.write(np.full(5 * 8, np.nan, np.float32).tobytes())
    with pytest.raises(ValueError, match=r'00001\.f32 is damaged: its vector 0 is not finite'):
        find(index, vector(0))
    with pytest.raises(ValueError, match=r'00001\.f32 is damaged: its vector 2'), reading(index) as (_, snapshot):
        nearest(snapshot, vector(0)[None], 2, np.array([0, 7]))


def test_a_folder_of_other_things_does_not_become_an_index(tmp_path):
    draw(tmp_path / 'images/a.png')
    with pytest.raises(ValueError, match=r"not an archive index and not empty: it holds 'a.png'"):
        update(tmp_path / 'images', tmp_path / 'images')
    assert [path.name for path in (tmp_path / 'images').iterdir()] == ['a.png']


@pytest.mark.parametrize('values', [vector(0, 5), vector(0) * np.nan], ids=['width', 'nan'])
def test_vectors_that_do_not_fit(index, values):
    with open_writer(index) as writer, pytest.raises(ValueError, match=r'expected finite vectors \(1, 8\)'):
        writer.put([entry(50, values)])
    assert is_whole(index)


def test_the_check_finds_what_is_wrong(index):
    def problems():
        with ArchiveIndex(index) as opened:
            return ' '.join(check_index(opened).problems)

    assert problems() == ''
    with (index / 'vectors/00000.f32').open('r+b') as file:
        file.write(np.full(8, 3, np.float32).tobytes() + np.full(8, np.nan, np.float32).tobytes())
    assert '2 vectors are not finite or not of unit length' in problems()
    with sqlite3.connect(index / NAME) as db:
        db.execute('DELETE FROM tile WHERE row = 7')
        db.execute("UPDATE source SET status = 'gone' WHERE id = 3")
        db.execute('DELETE FROM source WHERE id = 5')
    assert '11 tiles on 12 rows' in problems()
    assert '1 tiles of no file' in problems()
    assert '1 tiles are not in the state of their file' in problems()
    assert '1 files without tiles' in problems()


@pytest.mark.parametrize(
    ('sql', 'problem'),
    [
        ('DELETE FROM place WHERE id = 4', '1 tiles are not in the tree'),
        ('DELETE FROM place WHERE id IN (6, 7)', '1 tiles are not in the tree'),
        ('UPDATE place SET west = west + 1 WHERE id = 4', '1 tiles are not in the tree'),
        ('UPDATE place SET north = north + 0.001 WHERE id = 7', '1 tiles are not in the tree'),
        ('UPDATE tile SET south = 1.5 WHERE row = 2', '1 tiles are not in the tree'),
        ('UPDATE tile SET west = NULL WHERE row = 2', '1 entries of the tree of places are of no tile'),
        ('INSERT INTO place VALUES (5, 1, 2, 3, 4)', '1 entries of the tree of places are of no tile'),
    ],
)
def test_the_check_compares_places(index, sql, problem):
    rng = np.random.default_rng(0)
    with open_writer(index) as writer, writer.catalog.transaction():
        for row, known in enumerate(writer.catalog.sources().values()):
            west = 179.123456 if row == 3 else rng.uniform(-179, 170)
            bounds = (west, rng.uniform(-90, 0), west + 2 - 360 * (row == 3), rng.uniform(0, 90))
            writer.catalog.describe(known.id, Description(bounds=bounds))
        writer.catalog.hide([5])
        writer.catalog.delete([6])
    assert is_whole(index)
    with sqlite3.connect(index / NAME) as db:
        db.execute(sql)
    with ArchiveIndex(index) as opened:
        assert [found for found in check_index(opened).problems if problem in found]


@pytest.mark.parametrize('dim', [8, 2000], ids=['catalogue', 'vectors'])
def test_the_disk_is_full(small_disk, tmp_path, dim):
    """What was accepted is there, and with more room the work goes on."""
    index, model, accepted = small_disk / 'index', MODEL._replace(dim=dim), 0
    with pytest.raises(OSError, match='cannot be written|No space'):  # noqa: PT012, one of many batches fails
        while accepted < 10_000:
            fill(index, [vector(accepted + n, dim) for n in range(20)], first=accepted, shard_rows=300, model=model)
            accepted += 20
    assert accepted
    assert len(content(index)) == accepted
    shutil.copytree(index, tmp_path / 'roomy')
    fill(tmp_path / 'roomy', [vector(1, dim)], first=99_000, model=model)
    assert len(content(tmp_path / 'roomy')) == accepted + 1
    assert is_whole(tmp_path / 'roomy')


def test_hits_have_all_that_is_known(index):
    (hit,) = find(index, vector(3), k=1)
    assert hit.tile_id.startswith('00003-')
    assert hit.image_size == (6, 8)
    with reading(index) as (opened, _):
        assert opened.catalog.counts() == dict(ok=12, unreadable=0, gone=0, tiles=12, placed=0, rows=12)
        assert opened.catalog.rows_where(Where()).tolist() == list(range(12))
