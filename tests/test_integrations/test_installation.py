import pytest

from galr_mm.integrations import installation
from galr_mm.utils import collect_env
from tests.helpers import run_tool


def test_report():
    text = run_tool('-m', 'galr_mm.utils.collect_env').stdout
    for word in ('torch: ', 'OpenMMLab line: ', 'mmcv.ops: ', 'mmengine: '):
        assert word in text


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
