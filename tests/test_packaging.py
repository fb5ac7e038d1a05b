"""The built wheel holds what an installed package needs, as real files."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    # from a copy: setuptools would leave its build folder in the checkout, and take stale files from it
    source, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('galr_mm', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q', '-w', folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob('galr_mm-*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_contents(wheel):
    names = set(wheel.namelist())
    for path in (ROOT / 'galr_mm').rglob('*.py'):
        if '.mim' not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*.*'):
            if path.suffix in ('.py', '.sh'):
                assert f'galr_mm/.mim/{path.relative_to(ROOT).as_posix()}' in names
    assert 'galr_mm/py.typed' in names
    assert 'galr_mm/.mim/model-index.yml' in names
    assert not [n for n in names if n.startswith(('tests/', 'projects/')) or '__pycache__' in n]


def test_files_are_whole(wheel):
    assert wheel.read('galr_mm/.mim/configs/galr_ucm.py') == (ROOT / 'configs/galr_ucm.py').read_bytes()


def test_metadata(wheel):
    (name,) = [n for n in wheel.namelist() if n.endswith('.dist-info/METADATA')]
    metadata = wheel.read(name).decode()
    assert 'Requires-Dist: onedl-mmengine>=' in metadata
    assert 'Provides-Extra: detect' in metadata
    assert 'Requires-Dist: onedl-mmdetection>=3.5.1; extra == "detect"' in metadata
