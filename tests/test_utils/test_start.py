import os
import subprocess
import sys
import warnings

import pytest

from galr_mm.utils.start import SPIN_COUNT, prepare_process
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({}, SPIN_COUNT),
        ({'GOMP_SPINCOUNT': '7'}, '7'),
        ({'OMP_WAIT_POLICY': 'ACTIVE'}, None),
    ],
)
def test_idle_threads_sleep_unless_the_user_chose(before, after, monkeypatch):
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    prepare_process()
    assert os.environ.get('GOMP_SPINCOUNT') == before.get('GOMP_SPINCOUNT')  # torch is loaded: too late
    monkeypatch.delitem(sys.modules, 'torch')
    prepare_process()
    assert os.environ.get('GOMP_SPINCOUNT') == after


def test_tools_set_it_before_torch():
    """A fresh process: the package of the tools alone must not bring torch."""
    code = "import sys, os, galr_mm.cli; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    env = {key: value for key, value in os.environ.items() if key not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ['False', SPIN_COUNT]


def test_warnings_of_upstream():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        prepare_process()
        warnings.warn('torch.meshgrid: in an upcoming release, it will be required')
        warnings.warn('something else')
    assert [str(w.message) for w in caught] == ['something else']
