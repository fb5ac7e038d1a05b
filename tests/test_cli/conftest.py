import pytest

from tests.helpers import run_tool


@pytest.fixture(scope='session')
def trained(mini_config, tmp_path_factory):
    """Folder and log of a training of mini_config."""
    work = tmp_path_factory.mktemp('work')
    done = run_tool('tools/train.py', mini_config, '--work-dir', work)
    return work, done.stdout + done.stderr


@pytest.fixture(scope='session')
def checkpoint(trained):
    """The best weights of that training."""
    (path,) = trained[0].glob('best_mR_*.pth')
    return path
