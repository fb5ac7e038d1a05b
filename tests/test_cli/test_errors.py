"""Where something is wrong a tool ends with one line."""

import importlib
import logging
import pkgutil
from collections import OrderedDict

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import Registry

import galr_mm.cli
from galr_mm.cli.errors import LONGEST, one_line, settings_of
from galr_mm.registry import MODELS

MODULES = [importlib.import_module(f'galr_mm.cli.{name}') for _, name, _ in pkgutil.iter_modules(galr_mm.cli.__path__)]
# but for the report of what is installed, which needs nothing of it
TOOLS = [module for module in MODULES if hasattr(module, 'main') and not module.__name__.endswith('collect_env')]


@pytest.fixture(autouse=True)
def keep_logging(monkeypatch):
    monkeypatch.setattr(logging, 'raiseExceptions', logging.raiseExceptions)
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())  # no log file of another test


def raising(error):
    @one_line
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize('tool', TOOLS, ids=lambda tool: tool.__name__)
def test_every_tool_has_it(tool):
    assert tool.main.__wrapped__


@pytest.mark.parametrize(
    'error', [FileNotFoundError(2, 'No such file', 'a.json'), ValueError('a.json:\n  no'), ImportError('a.json')]
)
def test_wrong_input_is_a_message(error):
    with pytest.raises(SystemExit, match='a.json') as end:
        raising(error)()
    assert '\n' not in end.value.code
    with pytest.raises(SystemExit) as end:
        raising(ValueError('x' * 10_000))()
    assert len(end.value.code) <= LONGEST


def test_anything_else_keeps_its_traceback():
    with pytest.raises(RuntimeError, match='a mistake of ours'):
        raising(RuntimeError('a mistake of ours'))()


def test_the_part_of_a_config_is_named():
    named = r"^c\.py, MIDF: mode is 'x', expected .*\(midf\.py, line \d+\)$"
    with pytest.raises(ValueError, match=named), settings_of('c.py'):
        MODELS.build(dict(type='galr_mm.MIDF', mode='x'))
    with pytest.raises(ValueError, match=r'^c\.py, MIDF: TypeError: .*nothing'), settings_of('c.py'):
        MODELS.build(dict(type='galr_mm.MIDF', nothing=3))
    with pytest.raises(ValueError, match=r'^c\.py: KeyError: galr_mm\.No is not in the'), settings_of('c.py'):
        MODELS.build(dict(type='galr_mm.No'))


@pytest.mark.parametrize(
    'options, named',
    [
        (dict(type='galr_mm.DREA', num_nodes='many'), r"; num_nodes is 'many', expected int "),
        (
            dict(type='galr_mm.DREA', num_nodes='2', score_thr='x'),
            "num_nodes is '2', expected int; score_thr is 'x', expected float or None ",
        ),
        (dict(type='galr_mm.GCN', in_channels=8, num_nodes=2.5), r'; num_nodes is 2\.5, expected int '),
        (
            dict(type='galr_mm.ContrastiveLoss', temperature='warm', gather=True),
            "; temperature is 'warm', expected float ",
        ),
    ],
)
def test_an_option_of_another_type_is_named(options, named):
    with pytest.raises(ValueError, match=named), settings_of('c.py'):
        MODELS.build(options)


def test_a_part_without_a_signature():
    registry = Registry('of_c')
    registry.register_module(name='Counts', module=range)  # cannot be inspected
    with pytest.raises(ValueError, match=r'^c\.py, range: TypeError: '), settings_of('c.py'):
        registry.build(dict(type='Counts', start=3))


def test_options_of_the_right_type_are_not_blamed():
    with pytest.raises(ValueError, match='c.py, DREA') as error, settings_of('c.py'):
        MODELS.build(dict(type='galr_mm.DREA', sigma=-1, score_thr=None, num_nodes=3))
    assert 'expected int' not in str(error.value)
    assert 'expected float' not in str(error.value)


def test_what_names_a_file_stays_as_it_is():
    with pytest.raises(FileNotFoundError, match=r'^no captions at a\.json$'), settings_of('c.py'):
        raise FileNotFoundError('no captions at a.json')


def test_the_traceback_is_in_the_log(tmp_path):
    log = tmp_path / 'run.log'
    MMLogger.get_instance('errors', log_file=str(log))
    try:
        with pytest.raises(ValueError, match=rf'more in .*{log.name}'), settings_of('c.py'):
            _ = {}['key']
    finally:
        MMLogger._instance_dict.pop('errors')
    assert "_ = {}['key']" in log.read_text()
