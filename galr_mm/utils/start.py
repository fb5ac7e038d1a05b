"""What a tool's process needs before anything large is imported."""

from __future__ import annotations

import os
import sys
import warnings

# How often an idle OpenMP thread looks for work before it sleeps: benchmarks/bench_busy.py compares values. The
# library's own 300,000 takes the cores from other processes for milliseconds at each of thousands of joins a second.
SPIN_COUNT = '10000'
# warnings of packages that this one uses about their own insides, by how they begin
IRRELEVANT = ('faster_coco_eval is not installed', 'torch.meshgrid: in an upcoming release')


def prepare_process() -> None:
    """Let idle threads of OpenMP sleep early, unless the user chose how they wait, and ignore upstream's warnings.

    libgomp reads the environment when torch loads it, so in a process that has torch nothing is set.
    """
    if 'torch' not in sys.modules and not {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & os.environ.keys():
        os.environ['GOMP_SPINCOUNT'] = SPIN_COUNT
    for beginning in IRRELEVANT:
        warnings.filterwarnings('ignore', message=beginning)
