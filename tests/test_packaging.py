"""The built wheel holds what an installed package needs, as real files, and `mim` runs it."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from modelindex.load_model_index import load

from tests.helpers import ROOT, SMALL, environment

pytestmark = pytest.mark.packaging
PLACES = ('galr_mm', '+galr_mm')  # the second is where mim looks


@pytest.fixture(scope='module')
def wheel_file(tmp_path_factory):
    # from a copy: setuptools would leave its build folder in the checkout, and take stale files from it
    source, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('galr_mm', 'dev', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q', '-w', folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob('galr_mm-*.whl')
    return path


@pytest.fixture(scope='module')
def wheel(wheel_file):
    with zipfile.ZipFile(wheel_file) as archive:
        yield archive


@pytest.fixture(scope='module')
def installed(wheel_file, tmp_path_factory):
    """Run `python ...` from outside the checkout, where galr_mm is the wheel and the rest is what is here."""
    folder = tmp_path_factory.mktemp('installed')
    venv.create(folder / 'venv', symlinks=True)
    python = folder / 'venv/bin/python'
    # a folder that a .pth names is searched, but its own .pth files are not read: an editable galr_mm stays out
    (site,) = (folder / 'venv/lib').glob('python*/site-packages')
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ('purelib', 'platlib'))
    (site / 'here.pth').write_text('\n'.join(here))
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', '-q', wheel_file]
    subprocess.run(pip, check=True, capture_output=True)
    env = environment()
    env.pop('PYTHONPATH', None)

    def run(*args, cwd):
        command = [python, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=560)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    where = run('-c', 'import galr_mm; print(galr_mm.__file__)', cwd=folder).strip()
    assert Path(where) == site / 'galr_mm/__init__.py'
    run.package, run.python = site / 'galr_mm', python
    return run


def test_contents(wheel):
    names = set(wheel.namelist())
    for path in (ROOT / 'galr_mm').rglob('*.py'):
        if '.mim' not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*.*'):
            if path.suffix in ('.py', '.sh', '.yml'):
                assert f'galr_mm/.mim/{path.relative_to(ROOT).as_posix()}' in names
    assert 'galr_mm/py.typed' in names
    assert 'galr_mm/.mim/model-index.yml' in names
    for_galr, for_mim = ({n.split('/', 1)[1] for n in names if n.startswith(f'{p}/.mim/')} for p in PLACES)
    assert for_galr == for_mim
    assert not [n for n in names if n.startswith(('tests/', 'projects/', 'dev/')) or '__pycache__' in n]
    assert not [n for n in names if 'setup_env' in n]


def test_console_scripts(wheel, installed, mini_config, tmp_path):
    """Every tool has one; it runs outside a checkout."""
    (name,) = [n for n in wheel.namelist() if n.endswith('.dist-info/entry_points.txt')]
    scripts = dict(re.findall(r'^(galr-[\w-]+) = (.*)$', wheel.read(name).decode(), re.M))
    tools = {path.stem for path in (ROOT / 'galr_mm/cli').glob('*.py') if '\ndef main(' in path.read_text()}
    assert {f'galr_mm.cli.{tool}:main' for tool in tools} == {*scripts.values()}
    for target in scripts.values():
        module, function = target.split(':')
        assert callable(getattr(importlib.import_module(module), function))
    captions = mini_config.parent / 'captions.json'
    record = dict(filename='a.jpg', split='train', sentences=[dict(raw='A river.')])
    captions.write_text(json.dumps(dict(images=[record])))
    script = Path(installed.python).with_name('galr-build-vocabulary')
    said = installed(script, captions, '--out', tmp_path / 'vocabulary.json', cwd=tmp_path)
    assert '2 words of 1 training captions' in said


def test_files_are_whole(wheel):
    assert wheel.read('galr_mm/.mim/configs/galr_ucm.py') == (ROOT / 'configs/galr_ucm.py').read_bytes()


def test_metadata(wheel):
    (name,) = [n for n in wheel.namelist() if n.endswith('.dist-info/METADATA')]
    metadata = wheel.read(name).decode()
    assert 'Requires-Dist: onedl-mmengine>=' in metadata
    assert 'Provides-Extra: detect' in metadata
    assert 'Requires-Dist: onedl-mmdetection>=3.5.1; extra == "detect"' in metadata


def test_index_resolves_in_the_wheel(installed, tmp_path):
    code = """
import pathlib
from galr_mm.apis.hub import MIM, NAMES, ModelHub
paths = [pathlib.Path(ModelHub._models_dict[name].config) for name in NAMES]
print(len(paths), all(p.is_file() and p.is_relative_to(MIM) and not p.is_symlink() for p in paths), MIM)
"""
    said = installed('-c', code, cwd=tmp_path).strip().splitlines()[-1].split()
    assert said == [str(len(load(str(ROOT / 'model-index.yml')).models)), 'True', str(installed.package / '.mim')]


@pytest.mark.slow
def test_mim_trains_and_tests_a_config(installed, mini_config, tmp_path):
    """On a config of the user's, which inherits from the installed ones."""
    pytest.importorskip('mim')
    config = tmp_path / 'mine.py'
    own = mini_config.read_text().replace(f'{ROOT}/configs', f'{installed.package}/.mim/configs')
    assert str(ROOT) not in own
    config.write_text(own)
    one_epoch = ['--cfg-options', 'train_cfg.max_epochs=1']
    log = installed('-m', 'mim', 'train', 'galr_mm', config, '--work-dir', tmp_path / 'work', *one_epoch, cwd=tmp_path)
    assert 'Training finished successfully' in log
    (checkpoint,) = (tmp_path / 'work').glob('best_mR_*.pth')
    test = ['-m', 'mim', 'test', 'galr_mm', config, '--checkpoint', checkpoint, '--work-dir', tmp_path / 'test']
    log = installed(*test, '--cfg-options', 'rerank=mr', 'rerank_cfg.mr.k=7', cwd=tmp_path)
    assert 'MultivariateRerank(k=7)' in log
    assert f'{SMALL["test"]} images' in log
    assert re.search(r'^mr +\d', log, re.M)
    assert 'Testing finished successfully' in log


@pytest.mark.slow
def test_mim_finds_a_shipped_config_by_its_name(installed, mini, tmp_path):
    pytest.importorskip('mim')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini)
    options = ['--no-validate', '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0']
    options.append('train_dataloader.persistent_workers=False')
    log = installed('-m', 'mim', 'train', 'galr_mm', 'galr_mini.py', *options, cwd=tmp_path)
    assert 'Training finished successfully' in log
    assert (tmp_path / 'work_dirs/galr_mini/epoch_1.pth').is_file()


def test_mim_lists_the_models(installed, tmp_path):
    pytest.importorskip('mim')
    log = installed('-m', 'mim', 'search', 'galr_mm', '--model', 'dualencoder', cwd=tmp_path)
    assert 'dual_encoder_ucm_128px' in log
    assert 'galr_ucm' not in log
