import math

import pytest
from mmengine.config import Config

from galr_mm.detection.saved_config import read_config_text
from tests.helpers import ROOT


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
