"""The ground floor: what it exports, and how little it needs."""

import subprocess
import sys

import pytest

from galr_mm import functional

HEAVY = {'matplotlib', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'torch_geometric', 'torchvision', 'transformers'}


def modules_after(statement):
    """Top-level modules that a fresh process has loaded."""
    code = f'import sys; {statement}; print(*{{name.split(".")[0] for name in sys.modules}})'
    return set(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split())


def test_needs_torch_and_numpy_only():
    functional_modules = modules_after('import galr_mm.functional')
    assert 'torch' in functional_modules
    assert not functional_modules & HEAVY
    # torch.hub knows tqdm; nothing here adds to what torch and numpy load
    standard = sys.stdlib_module_names | modules_after('import torch, numpy')
    assert functional_modules - standard == {'galr_mm'}


def test_the_package_itself_needs_nothing():
    assert not modules_after('import galr_mm') & (HEAVY | {'torch', 'numpy'})


@pytest.mark.parametrize('name', functional.__all__)
def test_every_public_name_has_an_example(name):
    assert '>>>' in getattr(functional, name).__doc__
