"""Faults on purpose: kills, full disks, read-only folders, bad inputs, several processes (docs/faults.md)."""

import os

# before torch is imported: a fork keeps one thread, and asking CUDA itself whether there is a GPU would forbid it
os.environ.update(OMP_NUM_THREADS='1', PYTORCH_NVML_BASED_CUDA_CHECK='1')
os.environ['JE_ARROW_MALLOC_CONF'] = 'background_thread:false'  # pandas imports pyarrow where it is installed
