"""A Milvus beside an index gives what the index gives: filled, changed, killed, damaged, in use, of another index."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from galr_mm.archive import (
    ArchiveIndex,
    MilvusEngine,
    Where,
    check_engine,
    fill_engine,
    open_writer,
)
from galr_mm.archive import engine as engine_module
from galr_mm.archive.engine import checksums
from galr_mm.archive.search import nearest
from galr_mm.cli.archive import main
from galr_mm.integrations.milvus import EngineError, MilvusCollection, split_address
from tests.test_archive.helpers import MODEL, entry, fill, reading, vector
from tests.test_archive.test_search import random_description, random_where

pytestmark = pytest.mark.milvus

DIM = 32
WIDE = MODEL._replace(dim=DIM)


def unit(seed):
    return vector(seed, DIM)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """An index and an engine that was filled from it."""
    folder = tmp_path_factory.mktemp('made')
    fill(folder / 'index', [unit(n) for n in range(40)], model=WIDE, shard_rows=17)
    assert counts(filled(folder / 'index', folder / 'engine.db')) == (40, 40, 0, 0)
    return folder


@pytest.fixture
def index(made, tmp_path):
    return shutil.copytree(made / 'index', tmp_path / 'index')


@pytest.fixture
def engine(made, tmp_path):
    return shutil.copytree(made / 'engine.db', tmp_path / 'engine.db')


def filled(index, address, **options):
    with open_writer(index) as writer:
        return fill_engine(writer, str(address), **options)


def counts(report):
    return report.tiles, report.missing, report.wrong, report.superfluous


def problems(index, address):
    with ArchiveIndex(index) as opened:
        return check_engine(opened, str(address)).problems


def compare(index, address, seeds=range(20), ks=(1, 5, 15, 1000)):
    """Searches through an engine are those of all vectors, to the last bit."""
    with reading(index) as (opened, snapshot):
        engine = MilvusEngine(opened, str(address))
        queries = np.stack([unit(1000 + seed) for seed in seeds])
        try:
            for k in ks:
                found, expected = engine(snapshot, queries, k), nearest(snapshot, queries, k)
                np.testing.assert_array_equal(found.rows, expected.rows)
                np.testing.assert_array_equal(found.scores, expected.scores)
        finally:
            engine.close()
    return True


def held(address):
    """What an engine holds: row by row, with its vector."""
    with MilvusCollection(str(address)) as collection:
        collection.load()
        rows, _, vectors = collection.rows('id >= -1000', vectors=True)
    return {row: v.tobytes() for row, v in zip(rows.tolist(), vectors, strict=True)}


def expected(index):
    with reading(index) as (_, snapshot):
        rows = np.setdiff1d(np.arange(snapshot.rows), snapshot.not_live)
        return {row: v.tobytes() for row, v in zip(rows.tolist(), snapshot.vectors(rows), strict=True)}


# filling


def test_it_follows_the_index(index, engine):
    """Increments, hidden and deleted images, a compaction: each state is searched, and only what differs is sent."""
    assert compare(index, engine)
    assert counts(filled(index, engine)) == (40, 0, 0, 0)
    fill(index, [unit(100 + n) for n in range(9)], first=100, model=WIDE)
    assert counts(filled(index, engine)) == (49, 9, 0, 0)
    with open_writer(index) as writer, writer.catalog.transaction():
        ids = [known.id for known in writer.catalog.sources().values()]
        writer.catalog.hide(ids[3:8])
        writer.catalog.delete(ids[20:22])
    assert counts(filled(index, engine)) == (42, 0, 0, 7)
    assert compare(index, engine)
    with open_writer(index) as writer, writer.catalog.transaction():
        writer.catalog.show(ids[3:6])
    assert counts(filled(index, engine)) == (45, 3, 0, 0)
    with open_writer(index) as writer:
        writer.put([entry(2, unit(777))])  # a changed file
        assert writer.compact() == 3
    report = filled(index, engine)
    assert report.tiles == 45
    assert report.wrong > 20  # rows have other numbers now
    assert held(engine) == expected(index)
    assert compare(index, engine)
    assert problems(index, engine) == []


def test_what_does_not_change_the_tiles_needs_no_filling(index, engine):
    with open_writer(index) as writer, writer.catalog.transaction():
        writer.catalog.set_meta(archive=b'/elsewhere'.hex())
        known = next(iter(writer.catalog.sources().values()))
        writer.catalog.set_state(known.id, known.state)
        writer.catalog.show([known.id])
        writer.catalog.hide([])
    assert compare(index, engine)


def test_an_index_without_tiles(tmp_path):
    fill(tmp_path / 'index', [], model=WIDE)
    assert counts(filled(tmp_path / 'index', tmp_path / 'engine.db')) == (0, 0, 0, 0)
    assert compare(tmp_path / 'index', tmp_path / 'engine.db')
    assert problems(tmp_path / 'index', tmp_path / 'engine.db') == []


def test_several_messages(index, tmp_path, monkeypatch):
    """Vectors are sent, listed and searched for in parts."""
    monkeypatch.setattr(engine_module, 'VALUES', 7 * DIM)
    monkeypatch.setattr(engine_module, 'PAGE', 11)
    monkeypatch.setattr('galr_mm.integrations.milvus.VALUES', 50)
    filled(index, tmp_path / 'engine.db')
    assert held(tmp_path / 'engine.db') == expected(index)
    assert compare(index, tmp_path / 'engine.db')
    assert problems(index, tmp_path / 'engine.db') == []


def test_checksums_tell_vectors_apart():
    vectors = np.stack([unit(0), unit(1), unit(0)])
    first, second, third = checksums(vectors)
    assert first == third != second
    assert checksums(vectors[:, ::-1])[0] != first


@pytest.fixture(scope='module')
def server():
    """Forks of it have the modules, and have never called Milvus."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.test_archive.test_engine', 'pymilvus', 'milvus_lite.server_manager'])
    return context


def fill_in_parts(index, address):
    engine_module.VALUES = 25 * DIM  # of this process, which ends with it
    filled(index, address)
    os._exit(0)


def killed_fill(server, index, address, delay):
    """Gives whether it had ended by itself."""
    child = server.Process(target=fill_in_parts, args=(index, address))
    child.start()
    child.join(delay)
    if child.exitcode is None:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize('kills', [6, 50])
def test_killed_while_filling(server, tmp_path, kills):
    """At random moments: it goes on, and meanwhile no search takes what is there for the whole."""
    index, engine = tmp_path / 'index', tmp_path / 'engine.db'
    fill(index, [unit(n) for n in range(300)], model=WIDE, shard_rows=128)
    assert killed_fill(server, index, tmp_path / 'first.db', 60)  # which starts the server
    start = time.monotonic()
    assert killed_fill(server, index, tmp_path / 'undisturbed.db', 60)
    whole, rng, done = time.monotonic() - start, random.Random(kills), 0
    for attempt in range(8 * kills):
        if done == kills:
            break
        ended = killed_fill(server, index, engine, rng.uniform(0, whole))
        done += not ended
        if attempt % 3 == 0 and engine.exists():
            with contextlib.suppress(EngineError):  # it refuses what is not whole, and lacks nothing otherwise
                assert search(index, engine) == brute(index)
        if ended:
            shutil.rmtree(engine)
            whole *= 0.9
    assert done == kills
    filled(index, engine)
    assert held(engine) == expected(index) == held(tmp_path / 'undisturbed.db')
    assert problems(index, engine) == []
    assert compare(index, engine, range(5), (7,))


def test_a_row_that_is_there_twice_is_sent_anew(index, tmp_path, monkeypatch):
    """As a kill may leave it; a comparison row by row does not show it, the count does."""
    engine = tmp_path / 'engine.db'
    filled(index, engine)
    count, calls = MilvusCollection.count, []

    def counted(collection, *args):
        calls.append(count(collection, *args))
        return calls[-1] + (len(calls) == 1)

    monkeypatch.setattr(MilvusCollection, 'count', counted)
    filled(index, engine)
    assert len(calls) == 2
    assert held(engine) == expected(index)
    assert compare(index, engine, range(3), (7,))


# filters and ties


@pytest.fixture(scope='module')
def described(tmp_path_factory):
    """An index of described tiles, some of them hidden, many of them equal; and its engine."""
    folder, rng = tmp_path_factory.mktemp('described'), np.random.default_rng(1)
    fill(folder / 'index', [unit(n % 90) for n in range(300)], model=WIDE, shard_rows=64)
    with open_writer(folder / 'index') as writer, writer.catalog.transaction():
        for known in writer.catalog.sources().values():
            writer.catalog.describe(known.id, random_description(rng))
        writer.catalog.hide([known.id for known in list(writer.catalog.sources().values())[::13]])
    filled(folder / 'index', folder / 'engine.db')
    return folder


@pytest.mark.parametrize(
    ('chosen', 'fetched'), [(1 << 16, (256, 1024)), (0, (256, 1024)), (0, (16, 40, 90)), (20, (8, 64, 512))],
    ids=['few', 'one message', 'over-fetched', 'both'],
)  # fmt: skip
def test_filters_give_what_filter_then_brute_force_gives(described, monkeypatch, chosen, fetched):
    monkeypatch.setattr(engine_module, 'CHOSEN', chosen)
    monkeypatch.setattr(engine_module, 'FETCHED', fetched)
    monkeypatch.setattr(engine_module, 'SPARE', 2)
    rng, passed = np.random.default_rng(chosen), []
    with reading(described / 'index') as (opened, snapshot):
        engine = MilvusEngine(opened, str(described / 'engine.db'))
        for case in range(24):
            where = random_where(rng) if case % 4 else Where()
            rows = opened.catalog.rows_where(where)
            queries, k = np.stack([unit(5000 + case), unit(6000 + case)]), int(rng.integers(1, 30))
            found, wanted = engine(snapshot, queries, k, rows), nearest(snapshot, queries, k, rows)
            np.testing.assert_array_equal(found.rows, wanted.rows)
            np.testing.assert_array_equal(found.scores, wanted.scores)
            passed.append(len(rows))
        engine.close()
    assert min(passed) < 10
    assert max(passed) > 200


def test_the_first_five_are_the_head_of_fifteen_among_copies(tmp_path, monkeypatch):
    """More copies of one vector than are asked for at once: they come by their row, as in a search of all vectors."""
    monkeypatch.setattr(engine_module, 'FETCHED', (8, 64, 256))
    monkeypatch.setattr(engine_module, 'SPARE', 2)
    fill(tmp_path / 'index', [unit(n % 2) for n in range(120)], model=WIDE, shard_rows=50)
    filled(tmp_path / 'index', tmp_path / 'engine.db')
    assert compare(tmp_path / 'index', tmp_path / 'engine.db', range(6), (5, 15, 61))


def test_more_than_an_engine_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, 'FETCHED', (8, 16))
    fill(tmp_path / 'index', [unit(n) for n in range(60)], model=WIDE)
    filled(tmp_path / 'index', tmp_path / 'engine.db')
    assert compare(tmp_path / 'index', tmp_path / 'engine.db', range(3), (3, 20, 60))


# what is wrong


def search(index, address, k=3, **options):
    with reading(index) as (opened, snapshot):
        engine = MilvusEngine(opened, str(address), **options)
        try:
            return engine(snapshot, unit(5)[None], k).rows.tolist()
        finally:
            engine.close()


def brute(index, k=3):
    with reading(index) as (_, snapshot):
        return nearest(snapshot, unit(5)[None], k).rows.tolist()


def test_an_index_that_has_changed_since(index, engine, caplog):
    fill(index, [unit(5)], first=100, model=WIDE)
    with pytest.raises(EngineError, match=r'does not hold the present state of .*`archive\.py fill .*engine\.db`'):
        search(index, engine)
    assert problems(index, engine)[0] == '1 vectors are missing'
    assert search(index, engine, or_exact=True) == brute(index)
    assert brute(index)[0][:2] == [5, 40]
    assert 'all vectors are compared instead' in caplog.text
    filled(index, engine)
    assert search(index, engine) == brute(index)


def test_copies_that_went_different_ways(index, engine, tmp_path):
    """Equal numbers of rows, another vector in the last: neither takes the engine of the other for its own."""
    other = shutil.copytree(index, tmp_path / 'other')
    assert search(other, engine) == brute(other)
    fill(index, [unit(500)], first=500, model=WIDE)
    fill(other, [unit(600)], first=600, model=WIDE)
    filled(index, engine)
    with pytest.raises(EngineError, match='does not hold the present state'):
        search(other, engine)
    assert counts(filled(other, engine)) == (41, 0, 1, 0)
    assert compare(other, engine)


def test_another_index_is_refused(index, tmp_path):
    fill(tmp_path / 'other', [unit(n) for n in range(50)], model=WIDE._replace(fingerprint='b' * 64, words='a twin'))
    engine = tmp_path / 'engine.db'
    filled(tmp_path / 'other', engine)
    message = "was filled from index '.*' of 'a twin', fingerprint bbbbbbbbbbbb.* of 'a hash', fingerprint aaaaaaaaaaaa"
    for action in (search, problems, filled):
        with pytest.raises(ValueError, match=message):
            action(index, engine)
    filled(index, f'{engine}#second')
    assert compare(index, f'{engine}#second')
    assert compare(tmp_path / 'other', engine)
    with MilvusCollection(str(engine)) as strange:
        strange._client.create_collection('strange', dimension=DIM)
    with pytest.raises(ValueError, match='was filled from something else than an archive index'):
        filled(index, f'{engine}#strange')


def change(address, action):
    with MilvusCollection(str(address)) as collection:
        collection.load()
        action(collection)


@pytest.mark.parametrize(
    ('action', 'problem', 'counted'),
    [
        (lambda c: c.delete(np.array([5, 9])), '2 vectors are missing', True),
        (lambda c: c.upsert(np.arange(90, 93), [1, 2, 3], np.stack([unit(5)] * 3)), '3 vectors are superfluous', True),
        (lambda c: c.upsert(np.array([-4]), [1], unit(5)[None]), '1 vectors are superfluous', True),
        (lambda c: c.upsert(np.array([7]), [1], unit(5)[None]), '1 vectors are wrong', False),
        (lambda c: c.upsert(np.array([7]), checksums(unit(7)[None]), unit(5)[None]), '1 vectors are wrong', False),
    ],
    ids=['missing', 'superfluous', 'below zero', 'wrong', 'wrong under the right checksum'],
)
def test_check_and_repair(index, engine, capsys, action, problem, counted):
    change(engine, action)
    assert problem in problems(index, engine)
    if counted:
        with pytest.raises(EngineError, match=r'holds \d+ vectors, .* 40; `archive\.py check .* --repair`'):
            search(index, engine)
    with pytest.raises(SystemExit, match='problems; `archive.py check .* --repair`'):
        main(['check', str(index), '--engine', str(engine)])
    assert problem in capsys.readouterr().out
    main(['check', str(index), '--engine', str(engine), '--repair'])
    assert '40 tiles, 40 searches compared, recall 1.0000' in capsys.readouterr().out
    assert held(engine) == expected(index)
    assert compare(index, engine)


def test_what_is_no_engine(index, tmp_path):
    with pytest.raises(EngineError, match=r'no engine at .*engine\.db; `archive\.py fill INDEX engine\.db` makes it'):
        search(index, tmp_path / 'engine.db')
    assert not (tmp_path / 'engine.db').exists()
    (tmp_path / 'file.db').write_text('text')
    (tmp_path / 'folder.db').mkdir()
    (tmp_path / 'folder.db/notes.txt').write_text('text')
    for name in ('file.db', 'folder.db'):
        for action in (search, filled, problems):
            with pytest.raises(ValueError, match=f'{name} is not a database of Milvus Lite 3'):
                action(index, tmp_path / name)
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere for an engine engine.db'):
        filled(index, tmp_path / 'nowhere' / 'engine.db')
    filled(index, tmp_path / 'engine.db')
    with pytest.raises(EngineError, match='has no collection other; `archive.py fill'):
        search(index, f'{tmp_path}/engine.db#other')
    begin = time.monotonic()
    for action in (search, filled, problems):
        with pytest.raises(EngineError, match=r'http://127\.0\.0\.1:1: Fail connecting to server'):
            action(index, 'http://127.0.0.1:1')
    assert search(index, 'http://127.0.0.1:1', or_exact=True) == brute(index)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    'address',
    ['engine', 'engine.db#a-b', 'ftp://host', 'http://', 'http://user:secret@host:1', 'http://host#', 'sqlite://a.db'],
)
def test_addresses(address):
    if address == 'http://host#':
        assert split_address(address) == ('http://host', 'galr_mm')
        return
    with pytest.raises(ValueError, match='expected a path that ends in .db or an address such as'):
        split_address(address)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ('files', 'damage'), [('*.parquet', cut), ('schema.json', cut), ('aliases.json', cut)], ids=lambda v: str(v)[:9]
)
def test_a_damaged_file(index, engine, files, damage):
    paths = list(engine.rglob(files))
    assert paths
    for path in paths:
        damage(path)
    for action in (search, filled, problems):
        with pytest.raises(EngineError, match=r'engine\.db: .*If it is damaged, delete it and fill it again'):
            action(index, engine)
    assert search(index, engine, or_exact=True) == brute(index)
    shutil.rmtree(engine)
    filled(index, engine)
    assert compare(index, engine)


@pytest.mark.parametrize('folder', ['half.db', 'half.db/collections', 'half.db/collections/galr_mm'])
def test_an_engine_that_was_being_made(index, tmp_path, folder):
    """What a kill leaves before there is a schema."""
    (tmp_path / folder).mkdir(parents=True)
    for action in (search, problems):
        with pytest.raises(EngineError, match='archive.py fill'):
            action(index, tmp_path / 'half.db')
    filled(index, tmp_path / 'half.db')
    assert compare(index, tmp_path / 'half.db')


@pytest.mark.parametrize('files', ['*.parquet', 'manifest.json*'])
def test_a_file_that_lost_vectors(index, engine, files):
    """Milvus Lite opens it as if nothing were wrong."""
    for path in list(engine.rglob(files)):
        path.unlink()
    with pytest.raises(EngineError, match='holds 0 vectors, .* 40; .*--repair'):
        search(index, engine)
    assert '40 vectors are missing' in problems(index, engine)
    filled(index, engine)
    assert compare(index, engine)


# a server


SERVER = """
import sys
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, store, port = start_server_in_thread(sys.argv[1])
print(port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def served(tmp_path):
    """Milvus Lite as a server: its process and its address."""
    process = subprocess.Popen(
        [sys.executable, '-c', SERVER, str(tmp_path / 'served.db')], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process, f'http://127.0.0.1:{int(process.stdout.readline())}'
    process.kill()
    process.communicate()


def test_a_server_that_goes_down(index, tmp_path, served, monkeypatch, caplog):
    """A file in use by another process; a graph; then no answer in the middle of filling and of searching."""
    process, address = served
    monkeypatch.setattr('galr_mm.integrations.milvus.ANSWER', 2)
    with pytest.raises(EngineError, match='DataDirLockedError: .*Milvus Lite is for one process at a time'):
        filled(index, tmp_path / 'served.db')
    filled(index, address)
    with MilvusCollection(address) as collection:
        assert collection._client.describe_index('galr_mm', 'vector')['index_type'] == 'HNSW'
    assert compare(index, address)
    assert problems(index, address) == []
    fill(index, [unit(100 + n) for n in range(9)], first=100, model=WIDE)
    with reading(index) as (opened, snapshot):
        engine = MilvusEngine(opened, address)
        with pytest.raises(EngineError, match='does not hold the present state'):
            engine(snapshot, unit(5)[None], 3)
        upsert = MilvusCollection.upsert

        def dying(*args):
            process.kill()
            process.wait()
            upsert(*args)

        monkeypatch.setattr(MilvusCollection, 'upsert', dying)
        for attempt in (lambda: filled(index, address), lambda: engine(snapshot, unit(5)[None], 3)):
            begin = time.monotonic()
            with pytest.raises(EngineError, match=address):
                attempt()
            assert time.monotonic() - begin < 8
        engine.or_exact = True
        assert engine(snapshot, unit(5)[None], 3).rows.tolist() == brute(index)
        assert 'all vectors are compared instead' in caplog.text


def test_the_command_line(index, tmp_path, capsys):
    engine = str(tmp_path / 'engine.db')
    main(['fill', str(index), engine])
    assert f'{engine}: 0 vectors kept, 40 added' in capsys.readouterr().out
    main(['check', str(index), '--engine', engine, '--queries', '7'])
    assert f'{engine}: 40 tiles, 7 searches compared, recall 1.0000' in capsys.readouterr().out
    for command, message in {
        ('fill', 'nowhere', engine): 'no archive index at nowhere',
        ('fill', str(index), 'engine'): "the engine is 'engine', expected a path that ends in .db",
        ('check', str(index), '--repair'): '--repair repairs an engine: name it with --engine',
        ('check', str(index), '--engine', str(tmp_path / 'no.db')): 'no engine at',
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(list(command))
