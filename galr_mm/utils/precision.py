from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ('fp32', 'amp_bf16')


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context a tower computes in: 'fp32' as the tensors are, 'amp_bf16' in bfloat16 where that is safe."""
    if precision not in PRECISIONS:
        raise ValueError(f'precision is {precision!r}, expected one of {PRECISIONS}')
    return nullcontext() if precision == 'fp32' else torch.autocast(device.type, torch.bfloat16)
