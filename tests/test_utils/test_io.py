import builtins
import errno
import os

import pytest

from galr_mm.utils.io import atomic_write, file_lock


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
