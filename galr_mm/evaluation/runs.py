"""What is kept of a training that a table reports: a json with everything about it, an .npz with its ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galr_mm.evaluation.metrics import RecallAtK
from galr_mm.messages import first_of, reason, shorten
from galr_mm.structures import RetrievalResult
from galr_mm.utils.io import UNREADABLE_NPZ, read_json, write_npz, write_text

KEYS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(('name', 'config', 'command'), (str,)),
    **dict.fromkeys(('seed', 'best_epoch'), (int,)),
    **dict.fromkeys(('options', 'init', 'curve'), (list,)),
    **dict.fromkeys(('rerank', 'metrics', 'data', 'model', 'machine', 'code'), (dict,)),
    'feature_cache': (bool,),
    'wall_minutes': (int, float),
}
# what is inside of some of them, by dotted name, where a table takes it as it is
INSIDE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(('model.parameters.total.all', 'machine.cores'), (int,)),
    **dict.fromkeys(('model.flops.image', 'model.flops.text'), (int, float)),
    **dict.fromkeys(('machine.torch', 'code.trained.commit', 'code.evaluated.commit'), (str,)),
    **dict.fromkeys(('code.trained.dirty', 'code.evaluated.dirty'), (bool,)),
    'data.files': (dict,),
}
NAME = r'[\w-][\w.-]*'  # of a row, which is a folder
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
        check_record(record)
        if path.name != f'seed_{record["seed"]}.json':
            raise ValueError(f'it is of seed {record["seed"]}')
        with np.load(path.with_suffix('.npz')) as file:
            arrays = {name: file[name] for name in file.files}
        for name in record['metrics']:
            images = arrays[f'{name}/images'].tobytes().decode().split('\n')
            owner = _indices(arrays, f'{name}/owner', len(arrays[f'{name}/owner']), len(images))
            sides = dict(i2t=(len(images), len(owner)), t2i=(len(owner), len(images)))
            ranks = {
                '' if prefix == 'raw' else prefix: {
                    direction: _indices(arrays, f'{name}/{prefix}/{direction}', *sizes)
                    for direction, sizes in sides.items()
                }
                for prefix in record['metrics'][name]
                if prefix != 'chance'
            }
            splits[name] = Split(ranks, owner, images)
            for prefix in ('', *record['rerank']):
                told = record['metrics'][name][prefix or 'raw']
                for key, value in recall(ranks[prefix]).items():
                    if not math.isclose(told[key], value, abs_tol=1e-3):
                        raise ValueError(f'{key} on {name} is {told[key]} in the json and {value} by the ranks')
    except (AttributeError, KeyError, *UNREADABLE_NPZ) as error:
        raise ValueError(f'{path} and its .npz are not what run_seeds.py writes: {reason(error)}') from error
    return Run(record, splits)


def check_record(record: Mapping[str, Any]) -> None:
    """Look at what a table takes from a json as it is.

    Raises:
        ValueError: names what is missing, of another type or not a number.
    """
    if lacking := [key for key in KEYS if key not in record]:
        raise ValueError(f'the json has no {", ".join(lacking)}')
    for key, types in KEYS.items():
        if type(record[key]) not in types:
            raise ValueError(f'{key} is {shorten(record[key])}, expected {" or ".join(t.__name__ for t in types)}')
    for path, types in INSIDE.items():
        value: Any = record
        for key in path.split('.'):
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) not in types:
            raise ValueError(f'{path} is {shorten(value)}, expected {" or ".join(t.__name__ for t in types)}')
    if not all(isinstance(value, str) for value in record['init']):
        raise ValueError(f'init is {shorten(record["init"])}, expected a list of texts')
    epochs = [point['epoch'] for point in record['curve']]
    if len(set(epochs)) < len(epochs):
        raise ValueError('the curve has an epoch twice')
    numbers = {'wall_minutes': record['wall_minutes']}
    numbers |= {f'curve.{i}.{key}': value for i, point in enumerate(record['curve']) for key, value in point.items()}
    numbers |= {
        f'metrics.{split}.chance.{key}': value
        for split, found in record['metrics'].items()
        for key, value in found['chance'].items()
    }
    numbers |= {
        f'metrics.{split}.chance.mR': found['chance'].get('mR', math.nan) for split, found in record['metrics'].items()
    }
    if wrong := [f'{key} is {value!r}' for key, value in numbers.items() if not math.isfinite(value)]:
        raise ValueError(f'{first_of(wrong)}, expected finite numbers')
    trained = {point['epoch']: point['mR'] for point in record['curve']}
    if record['best_epoch'] not in trained:
        raise ValueError(f'best_epoch is {record["best_epoch"]}, which the curve does not have')
    best = max(trained, key=lambda epoch: (trained[epoch], -epoch))
    if record['best_epoch'] != best:
        raise ValueError(f'best_epoch is {record["best_epoch"]}, and the curve has its highest mR at epoch {best}')
    if 'val' in record['metrics'] and not record.get('tta'):  # the curve is of single views
        check_selected(
            record['metrics']['val']['raw']['mR'], trained[record['best_epoch']], record['data']['val']['images']
        )


def check_selected(found: float, expected: float, num_images: int) -> None:
    """Look whether a checkpoint reaches on val what training had: else it, or the data, is not what was trained.

    Rounding, and features from a cache in float16, move a few ranks, by 0.02 points in our runs: a quarter of a point,
    or one image's worth, is let pass.

    Raises:
        ValueError: gives both numbers.
    """
    if not abs(found - expected) <= max(0.25, 100 / num_images):
        raise ValueError(
            f'the checkpoint reaches {found:.2f} mR on val, where its training had {expected:.2f}: the file, the '
            'feature cache or the data is another one than in training'
        )


def _indices(arrays: Mapping[str, np.ndarray], name: str, length: int, size: int) -> Tensor:
    """An array of ``length`` indices below ``size``; -1 where there is none."""
    values = arrays[name]
    if values.dtype.kind != 'i' or values.shape != (length,) or values.min() < -1 or values.max() >= size:
        raise ValueError(f'{name} is not {length} whole numbers from -1 to {size - 1}')
    return torch.from_numpy(values.astype(np.int64))


def _smallest(values: Tensor) -> np.ndarray:
    """The values in the smallest signed type that holds them."""
    kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if int(values.max()) <= np.iinfo(k).max)
    return values.cpu().numpy().astype(kind)
