import numpy as np
import pytest

from galr_mm.messages import clip, reason, shorten


@pytest.mark.parametrize(
    'value',
    [
        'a' * 10**6,
        ['a' * 999] * 999,
        {i: ['b' * 999] * 99 for i in range(999)},
        10**5000,
        np.zeros((99, 99)),
        b'c' * 9999,
    ],
    ids=['text', 'list', 'dict', 'number', 'array', 'bytes'],
)
def test_values_of_any_size_are_short(value):
    text = shorten(value)
    assert 0 < len(text) <= 500
    assert '\n' not in text


def test_small_values_are_whole():
    assert shorten({'split': 'val', 'id': 3}) == repr({'id': 3, 'split': 'val'})
    assert clip('two\n lines') == 'two lines'
    assert len(clip('x' * 5000)) == 500
    assert reason(ValueError('x' * 5000)).startswith('ValueError: xxx')
