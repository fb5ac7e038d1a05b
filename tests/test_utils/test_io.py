import builtins
import errno
import gzip
import json
import math
import os

import pytest

from galr_mm.cli import build_vocabulary, convert_detections, rerank
from galr_mm.datasets.captions import load_karpathy
from galr_mm.datasets.feature_cache import read_meta
from galr_mm.detection import ProposalSet
from galr_mm.evaluation.runs import load_run
from galr_mm.imagery import list_images
from galr_mm.text import Vocabulary
from galr_mm.utils.io import atomic_write, file_lock, read_json

TEXT = json.dumps({'images': [{'filename': 'a.jpg', 'raw': 'a café'}]}, ensure_ascii=False)


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / 'p.json'
    with file_lock(path), pytest.raises(BlockingIOError, match='another run is writing .*p.json'), file_lock(path):
        pass
    with file_lock(path):
        assert (tmp_path / 'p.json.lock').exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch):
    """The holder before us removes the file between our opening and our locking it; others then make a new one."""
    path, lock = tmp_path / 'p.json', tmp_path / 'p.json.lock'
    fcntl = pytest.importorskip('fcntl')
    flock, calls = fcntl.flock, []

    def removed_before_the_first(file, flags):
        calls.append(file)
        if len(calls) == 1:
            lock.unlink()
        flock(file, flags)

    monkeypatch.setattr(fcntl, 'flock', removed_before_the_first)
    with file_lock(path):
        assert len(calls) == 2
        assert os.path.samestat(lock.stat(), os.fstat(calls[1].fileno()))
        monkeypatch.undo()
        with pytest.raises(BlockingIOError), file_lock(path):
            pass


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_a_forked_process_does_not_hold_it(tmp_path):
    """Loaders outlive a killed training by seconds, in which it could not be resumed."""
    with file_lock(tmp_path / 'p'):
        (number,) = [int(fd) for fd in os.listdir('/proc/self/fd') if is_lock(fd)]
        child = os.fork()
        if not child:
            try:
                os.fstat(number)
            except OSError:
                os._exit(0)  # closed
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(BlockingIOError), file_lock(tmp_path / 'p'):
            pass


def is_lock(descriptor):
    try:
        return os.readlink(f'/proc/self/fd/{descriptor}').endswith('p.lock')
    except OSError:  # that of the listing itself
        return False


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EIO], ids=['ENOLCK', 'ENOSYS', 'EIO'])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def refused(file, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pytest.importorskip('fcntl'), 'flock', refused)
    if number == errno.EIO:  # a fault, not a missing feature
        with pytest.raises(OSError, match='output error'), file_lock(tmp_path / 'p'):
            pass
    else:
        with file_lock(tmp_path / 'p'):
            pass
    assert number == errno.EIO or not list(tmp_path.iterdir())


def test_a_system_without_fcntl_locks_nothing(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_fcntl(name, *args):
        if name == 'fcntl':
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, '__import__', without_fcntl)
    with file_lock(tmp_path / 'p'), file_lock(tmp_path / 'p'):
        assert not list(tmp_path.iterdir())


def test_atomic_write(tmp_path):
    path = tmp_path / 'deep/p.txt'
    with atomic_write(path) as part:
        part.write_text('old')
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as part:
        part.write_text(f'new {1 / 0}')
    assert path.read_text() == 'old'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'gzip'])
def test_json_of_any_unicode(tmp_path, encoding, packed):
    content = TEXT.encode(encoding)
    (tmp_path / 'a.json').write_bytes(gzip.compress(content) if packed else content)
    assert read_json(tmp_path / 'a.json') == json.loads(TEXT)


def test_json_with_nan(tmp_path):
    (tmp_path / 'a.json').write_text('[NaN, -Infinity]')
    assert math.isnan(read_json(tmp_path / 'a.json')[0])


BAD = {
    'latin-1': (b'"' + b'x' * 100_000 + 'é'.encode('latin-1') + b'"', 'byte 100001 is 0xe9, which is not UTF-8'),
    'latin-1 after a mark': (b'\xef\xbb\xbf"ab\xe9cd"', 'byte 6 is 0xe9, which is not UTF-8'),
    'empty': (b'', 'it is empty'),
    'blank': (b' \n', 'it is empty'),
    'cut': (TEXT.encode()[:-9], 'at line 1, column'),
    'web page': (b'<!DOCTYPE html>\n<html>' + b'x' * 9999, 'it is a web page'),
    'pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'it is a pointer of git-lfs'),
    'cut gzip': (gzip.compress(TEXT.encode())[:-12], 'a broken gzip file'),
    'deep': (b'[' * 200_000, 'nested too deeply'),
    'long number': (b'9' * 10_000, 'is not'),
}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize(
    'read',
    [read_json, Vocabulary.load, load_karpathy, list_images, ProposalSet, load_run, lambda p: read_meta(p.parent)],
    ids=['json', 'vocabulary', 'captions', 'images', 'proposals', 'run', 'cache'],
)
def test_what_is_not_json(tmp_path, name, read):
    """Every reader names the file and the place, in a short message."""
    content, message = BAD[name]
    path = tmp_path / 'meta.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    'run',
    [
        lambda path, out: build_vocabulary.main([path, '--out', out]),
        lambda path, out: convert_detections.main([path, path, '--out', out]),
        lambda path, out: rerank.read_positives(path, 1, 1),
    ],
    ids=['vocabulary', 'results', 'positives'],
)
def test_tools_say_it_in_one_short_line(tmp_path, run):
    content, message = BAD['latin-1']
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(SystemExit, match=message) as error:
        run(str(tmp_path / 'a.json'), str(tmp_path / 'out.json'))
    assert len(str(error.value)) < 1000


def test_values_of_any_length_in_errors(tmp_path):
    long = 'x' * 10**6
    for record in (long, {'filename': long}, {'filename': long, 'split': long, 'sentences': []}, [long] * 99):
        (tmp_path / 'a.json').write_text(json.dumps({'images': [record]}))
        with pytest.raises(ValueError, match=r'images\[0\]') as error:
            load_karpathy(tmp_path / 'a.json')
        assert len(str(error.value)) < 2000
    (tmp_path / 'v.json').write_text(json.dumps({'words': [long] * 3}))
    with pytest.raises(ValueError, match='is not a vocabulary') as error:
        Vocabulary.load(tmp_path / 'v.json')
    assert len(str(error.value)) < 2000
