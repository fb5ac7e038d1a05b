import math

import pytest
import torch
from mmengine.config import Config

from galr_mm.detection.detector import MMDetDetector
from galr_mm.detection.saved_config import check_types, read_config_text
from tests.helpers import ROOT


@pytest.mark.detect  # one of them inherits a config of mmdet
@pytest.mark.parametrize('path', sorted((ROOT / 'configs/detection').glob('*.py')), ids=lambda path: path.stem)
def test_what_a_training_saves_is_read(path):
    """MMEngine's runner keeps ``Config.pretty_text`` in a checkpoint."""
    cfg = Config.fromfile(path)
    assert read_config_text(cfg.pretty_text, 'a.pth') == Config.fromstring(cfg.pretty_text, '.py').to_dict()


def test_values():
    text = "a = dict(b=[1, -2.5, (3, None)], c={'x-y': True, 4: 'z'})\nd = {1, 2}\ne = -inf"
    values = read_config_text(text, 'a.pth')
    assert values['a'] == {'b': [1, -2.5, (3, None)], 'c': {'x-y': True, 4: 'z'}}
    assert values['d'] == {1, 2}
    assert math.isinf(values['e'])
    assert values['e'] < 0


@pytest.mark.parametrize(
    'text',
    [
        "import os\nmodel = dict(type='A')",
        "model = dict(type=open('MARK', 'w'))",
        "model = dict(type=[__import__('os').system('touch MARK')])",
        "model = dict(**open('MARK', 'w'))",
        "open('MARK', 'w')",
        "model = {open('MARK', 'w'): 1}",
        'model = [x for x in (1, 2)]',
        "model = f'{1 + 1}'",
        'model = a.b',
        'model = dict(',
        'a.b = 1',
        'model = -"x"',
        'model, other = 1, 2',
    ],
)
def test_what_is_not_data_is_refused_and_not_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'the config inside a\.pth is not plain data: .*config=FILE'):
        read_config_text(text, 'a.pth')
    assert not (tmp_path / 'MARK').exists()


@pytest.mark.parametrize('text', ['a = {[1]: 2}', 'a = {{1: 2}}', 'a = \0', 'a = ' + '-' * 5000 + '1'])
def test_what_python_cannot_read_is_an_error_of_its_own(text):
    with pytest.raises(ValueError, match='the config inside a.pth is not plain data'):
        read_config_text(text, 'a.pth')


@pytest.mark.detect  # one of them inherits a config of mmdet
@pytest.mark.parametrize('path', sorted((ROOT / 'configs/detection').glob('*.py')), ids=lambda path: path.stem)
def test_types_of_a_detector(path):
    check_types(Config.fromfile(path).to_dict(), 'a.pth')


@pytest.mark.parametrize(
    'name', ['mmdet.RTMDet', 'mmengine.runner.Runner', 'torch.nn.ReLU', 'torch.nn.SiLU', 'Foreign']
)
def test_types_that_are_classes(name):
    check_types([dict(model=dict(type=name), act_cfg=dict(type=None))], 'a.pth')


@pytest.mark.parametrize(
    'name',
    [
        'os.system',
        'subprocess.Popen',
        'builtins.exec',
        'torch.hub.load',
        'mmengine.config.Config.fromfile',
    ],
)
@pytest.mark.parametrize('place', [lambda t: t, lambda t: dict(a=[dict(type='A', b=(t,))])])
def test_a_type_that_a_registry_would_call(name, place):
    with pytest.raises(ValueError, match=f"type='{name}', which is not a class"):
        check_types(place(dict(type=name, command='true')), 'a.pth')


@pytest.mark.detect
def test_a_detector_checks_the_types_of_its_checkpoint(tmp_path):
    text = f"model = dict(type='os.system', command='touch {tmp_path}/mark')\ntest_dataloader = dict(dataset=dict())"
    torch.save(dict(state_dict={}, meta=dict(cfg=text)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="type='os.system'"):
        MMDetDetector(tmp_path / 'a.pth')
    assert not (tmp_path / 'mark').exists()
