"""What is kept of a training that a table reports: a json with everything about it, an .npz with its ranks."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galr_mm.evaluation.metrics import RecallAtK
from galr_mm.messages import reason
from galr_mm.structures import RetrievalResult
from galr_mm.utils.io import read_json, write_npz, write_text

KEYS = (
    'name', 'seed', 'config', 'options', 'rerank', 'init', 'feature_cache', 'best_epoch', 'metrics', 'curve', 'data',
    'model', 'wall_minutes', 'machine', 'code', 'command',
)  # fmt: skip
Ranks = dict[str, Tensor]  # 'i2t' (I,) and 't2i' (T,)


@dataclass(frozen=True)
class Split:
    """Per-query results of one split.

    Args:
        ranks: by prefix ('' for the raw scores), the 0-based ranks of the best positive, -1 for queries without one.
        owner: int64 (T,), the row of the first image that each caption describes.
        images: I file names.
    """

    ranks: Mapping[str, Ranks]
    owner: Tensor
    images: list[str]

    @property
    def positives(self) -> Tensor:
        """Bool (I, T), true where a caption's first image is."""
        return torch.arange(len(self.images))[:, None] == self.owner


@dataclass(frozen=True)
class Run:
    """One training with one seed: the json that ``run_seeds.py`` wrote, and the ranks beside it."""

    record: dict[str, Any]
    splits: Mapping[str, Split]


def save_run(path: Path, record: Mapping[str, Any], results: Mapping[str, RetrievalResult]) -> None:
    """Write ``path`` (json) and the .npz beside it, each atomically; the json is last, so its presence means both.

    Args:
        path: name that ends in .json.
        record: what goes into the json.
        results: by split.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, result in results.items():
        arrays[f'{split}/owner'] = _smallest(result.positives.int().argmax(dim=0))
        names = '\n'.join(Path(name or '').name for name in result.image_paths)
        arrays[f'{split}/images'] = np.frombuffer(names.encode(), dtype=np.uint8)  # numpy's strings take 4 bytes each
        for prefix, ranks in result.ranks.items():
            for direction, values in ranks.items():
                arrays[f'{split}/{prefix or "raw"}/{direction}'] = _smallest(values)
    write_npz(path.with_suffix('.npz'), **arrays)
    write_text(path, json.dumps(record, indent=1) + '\n')


def load_run(path: str | Path) -> Run:
    """Read what :func:`save_run` wrote.

    Raises:
        ValueError: when a file is not of that form, or the json's recalls are not those of the ranks.
    """
    path = Path(path)
    splits: dict[str, Split] = {}
    recall = RecallAtK()
    try:
        record = read_json(path)
        if lacking := [key for key in KEYS if key not in record]:
            raise ValueError(f'the json has no {", ".join(lacking)}')
        if path.name != f'seed_{record["seed"]}.json':
            raise ValueError(f'it is of seed {record["seed"]}')
        with np.load(path.with_suffix('.npz')) as file:
            arrays = {name: file[name] for name in file.files}
        for name in record['metrics']:
            ranks = {
                '' if prefix == 'raw' else prefix: {
                    direction: torch.from_numpy(arrays[f'{name}/{prefix}/{direction}'].astype(np.int64))
                    for direction in ('i2t', 't2i')
                }
                for prefix in record['metrics'][name]
                if prefix != 'chance'
            }
            owner = torch.from_numpy(arrays[f'{name}/owner'].astype(np.int64))
            splits[name] = Split(ranks, owner, arrays[f'{name}/images'].tobytes().decode().split('\n'))
            for prefix in ('', *record['rerank']):
                told = record['metrics'][name][prefix or 'raw']
                for key, value in recall(ranks[prefix]).items():
                    if not math.isclose(told[key], value, abs_tol=1e-3):
                        raise ValueError(f'{key} on {name} is {told[key]} in the json and {value} by the ranks')
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} and its .npz are not what run_seeds.py writes: {reason(error)}') from error
    return Run(record, splits)


def _smallest(values: Tensor) -> np.ndarray:
    """The values in the smallest signed type that holds them."""
    kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if int(values.max()) <= np.iinfo(k).max)
    return values.cpu().numpy().astype(kind)
