import platform
import subprocess
import sys

import pytest

from tests.helpers import environment

COUNT = """
import resource, sys, torch
from galr_mm.utils.allocator import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
for _ in range(30):  # 64 MB; where the heap puts them varies at first
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other C libraries are left as they are')
def test_pages_are_touched_once():
    def faults(mode):
        done = subprocess.run([sys.executable, '-c', COUNT, mode], capture_output=True, text=True, env=environment())
        return int(done.stdout)

    assert faults('keep') < faults('plain') / 5
