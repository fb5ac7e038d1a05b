from importlib import metadata
from importlib.util import find_spec

import pytest

import galr_mm
from galr_mm.cli import collect_env
from galr_mm.integrations import installation
from tests.helpers import run_tool


def test_report():
    printed = run_tool('-m', 'galr_mm.cli.collect_env').stdout
    report = dict(line.split(': ', 1) for line in printed.splitlines() if ': ' in line)
    assert report['galr_mm'] == galr_mm.__version__
    for name in ('torch', 'numpy', 'pycocotools'):
        assert report[name] == metadata.version(name)
    for name, (maintained, upstream) in installation.OPENMMLAB.items():
        found = [dist for dist in (maintained, upstream) if installation.version_of(dist)]
        assert report[name] == (' AND '.join(f'{dist} {metadata.version(dist)}' for dist in found) or 'not installed')
    assert (report['mmcv.ops'] == 'imports') == (find_spec('mmcv._ext') is not None)
    for module, extra in (('mmdet', 'detect'), ('open_clip', 'clip'), ('transformers', 'text')):
        assert (f'galr_mm[{extra}]' in printed) == (find_spec(module) is None)


def test_ops_built_for_another_torch(monkeypatch):
    """What an undefined symbol looks like from the import system."""
    monkeypatch.setattr(installation.importlib.util, 'find_spec', lambda name: object())

    def broken(name):
        raise ImportError('mmcv/_ext.so: undefined symbol: _ZN3c10')

    monkeypatch.setattr(installation.importlib, 'import_module', broken)
    with pytest.raises(SystemExit, match=r'undefined symbol(.|\n)*--no-build-isolation'):
        installation.require_working_mmcv()
    lines, fixes = collect_env.report()
    assert installation.REBUILD_MMCV in fixes


def test_mmcv_without_ops_is_fine_for_retrieval(monkeypatch):
    monkeypatch.setattr(
        installation.importlib.util, 'find_spec', lambda name: None if name == 'mmcv._ext' else object()
    )
    installation.require_working_mmcv()
    assert 'without compiled ops' in installation.mmcv_ops_error()


def test_both_lines_at_once(monkeypatch):
    for module in (installation, collect_env):
        monkeypatch.setattr(module, 'version_of', lambda name: '1.0')
    monkeypatch.setattr(installation, 'mmcv_ops_error', lambda: None)
    assert 'mmcv' in installation.mixed_lines()
    lines, fixes = collect_env.report()
    assert any('BOTH lines' in line for line in lines)
    assert any('pip uninstall -y' in command and 'onedl-mmengine' in command for command in fixes)
