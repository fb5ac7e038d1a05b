from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ('fp32', 'amp_bf16')


def check_precision(precision: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: when ``precision`` is not one of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision is {precision!r}, expected one of {PRECISIONS}')


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context to compute in: 'fp32' changes nothing, 'amp_bf16' runs in bfloat16 where that is safe."""
    return nullcontext() if precision == 'fp32' else torch.autocast(device.type, torch.bfloat16)
