from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def write_text(path: str | Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it: a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(path)


def write_npz(path: str | Path, **arrays: object) -> None:
    """Write a compressed .npz under a temporary name, then rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    with part.open('wb') as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)
