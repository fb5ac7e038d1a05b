"""What tools are asked to do again and again, and how results are compared."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.faults.workplace import Done, Workplace
from galr_mm.engine import feature_cache

RESUMED_FROM = ('state_dict', 'optimizer', 'param_schedulers')  # of a checkpoint; the rest holds times and paths
LOGS = re.compile(r'(^|/)(\d{8}_\d{6}/|small\.py$)')  # mmengine's, one folder a start, and the config that it copies


class Scenario(NamedTuple):
    """A command that writes into a folder.

    Args:
        tool: name of the module.
        words: its command line, for that folder.
        prepare: fills the folder before.
        first: see ``run``.
        again: it writes anew what is there.
    """

    tool: str
    words: Callable[[Path], list[object]]
    prepare: Callable[[Path], None] = lambda folder: None
    first: Callable[[], Any] | None = None
    again: bool = True


class Scenarios:
    """All of them, by name, with what each gives undisturbed.

    Args:
        place: where data and configs are.
    """

    def __init__(self, place: Workplace) -> None:
        self.place = place
        data, few = place.data, ['--num', 3]
        self.by_name = {
            'training': Scenario('train', self._training, again=False),
            'resumed training': Scenario('train', self._training, self._first_epoch, again=False),
            'extraction of proposals': Scenario(
                'extract_proposals',
                lambda folder: [
                    *(place.detector, place.weights, data / 'images', '--out', folder / 'proposals.json'),
                    *('--score-thr', 0.3, '--num-workers', 0, '--batch-size', 4, '--overwrite'),
                ],
            ),
            'conversion of captions': Scenario(
                'convert_captions', lambda folder: [place.captions, '--out', folder / 'dataset.json', '--overwrite']
            ),
            'conversion of detections': Scenario(
                'convert_detections',
                lambda folder: [place.results, place.listing, '--out', folder / 'proposals.json', '--overwrite'],
            ),
            'vocabulary': Scenario(
                'build_vocabulary', lambda folder: [place.captions, '--out', folder / 'vocabulary.json']
            ),
            'feature cache': Scenario(
                'cache_features',
                lambda folder: [place.config, '--out', folder, '--batch-size', 4],
                first=lambda: setattr(feature_cache, 'FLUSH_EVERY', 3),  # few images, in several parts
                again=False,
            ),
            'test': Scenario(
                'test',
                lambda folder: [
                    *(place.config, self.checkpoint(), '--work-dir', folder, '--out', folder / 'scores.npz'),
                    *('--show-dir', folder, '--cfg-options', 'rerank=mr'),
                ],
            ),
            're-ranking': Scenario('rerank', lambda folder: [place.scores, '--out', folder / 'reranked.npz']),
            'sweep': Scenario('rerank', lambda folder: [place.scores, '--sweep', folder / 'sweep.png']),
            'published model': Scenario(
                'publish_model', lambda folder: [self.checkpoint(), '--out', folder / 'model.safetensors']
            ),
            'mini data set': Scenario(
                'make_mini_dataset', lambda folder: ['--out', folder, '--train', 3, '--val', 1, '--test', 1]
            ),
            'samples': Scenario('browse_dataset', lambda folder: [place.config, '--out-dir', folder, *few]),
            'graphs': Scenario('show_graph', lambda folder: [place.config, '--out-dir', folder, *few]),
        }
        self._whole: dict[str, tuple[float, dict[str, str]]] = {}

    def start(self, name: str, folder: Path, kill_after: float | None = None) -> Done:
        """Run one into a folder."""
        scenario = self.by_name[name]
        return self.place.run(scenario.tool, *scenario.words(folder), kill_after=kill_after, first=scenario.first)

    def renew(self, name: str, folder: Path) -> None:
        """An empty folder, prepared."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.by_name[name].prepare(folder)

    def undisturbed(self, name: str) -> tuple[float, dict[str, str]]:
        """Seconds and contents of a run that nothing happened to."""
        if name not in self._whole:
            folder = self.whole(name)
            self.renew(name, folder)
            done = self.start(name, folder)
            if done.code:
                raise RuntimeError(f'{name} failed undisturbed:\n{done.text[-3000:]}')
            self._whole[name] = done.seconds, contents(folder)
        return self._whole[name]

    def whole(self, name: str) -> Path:
        """Folder of that run."""
        return self.place.folder / 'whole' / name.replace(' ', '_')

    def checkpoint(self) -> Path:
        """Of an undisturbed training."""
        self.undisturbed('training')
        return self.whole('training') / 'epoch_3.pth'

    def _training(self, folder: Path) -> list[object]:
        return [self.place.config, '--work-dir', folder, '--resume']

    def _first_epoch(self, folder: Path) -> None:
        """A training that ended in its second epoch."""
        kept = self.place.folder / 'first_epoch'
        if not kept.is_dir():
            until = kept / 'last_checkpoint'
            self.place.run('train', *self._training(kept), kill_when=until.is_file)
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def is_log(path: Path, folder: Path) -> bool:
    """Whether a file only says how a run went."""
    return bool(LOGS.search(path.relative_to(folder).as_posix()))


def unreadable(folder: Path) -> Iterator[str]:
    """Files that were written by halves; unfinished ones carry another name."""
    for path in folder.rglob('*'):
        if not path.is_file() or path.name.endswith(('.part', '.lock')):
            continue
        try:
            if path.suffix == '.pth':
                torch.load(path, weights_only=False)
            elif path.suffix in ('.npy', '.npz'):
                np.load(path)
            elif path.suffix == '.safetensors':
                load_file(path)
            elif path.suffix in ('.png', '.jpg'):
                Image.open(path).load()
            elif path.suffix == '.jsonl' or is_log(path, folder) and path.suffix == '.json':
                lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
                [json.loads(line) for line in lines if line.endswith('\n')]
            elif path.suffix == '.json':
                json.loads(path.read_text(encoding='utf-8'))
            elif path.name == 'last_checkpoint' and not Path(path.read_text().strip()).is_file():
                yield f'{path.name} names {path.read_text()!r}, which is not there'
        except Exception as error:  # a file that was cut makes its reader raise anything
            yield f'{path.name}: {type(error).__name__}: {error}'


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file of a result by its name."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob('*'))
        if path.is_file() and not is_log(path, folder)
    }


def digest(path: Path) -> str:
    """Of the bytes of a file; of a checkpoint the weights and what training goes on with."""
    sha = hashlib.sha256()
    if path.suffix == '.pth':
        checkpoint = torch.load(path, weights_only=False)
        sha.update(f'{checkpoint["meta"]["epoch"]} {checkpoint["meta"]["iter"]}'.encode())
        for value in leaves({key: checkpoint.get(key) for key in RESUMED_FROM}):
            sha.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    elif path.name == 'last_checkpoint':
        sha.update(Path(path.read_text()).name.encode())
    else:
        sha.update(path.read_bytes())
    return sha.hexdigest()


def leaves(node: Any) -> Iterator[Any]:
    """Keys and values of nested dicts and lists, in order."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from leaves(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from leaves(value)
    else:
        yield node


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names of files that are missing, left over or different."""
    return [
        *(f'{name} is missing' for name in expected if name not in found),
        *(f'{name} is left over' for name in found if name not in expected),
        *(f'{name} differs' for name in expected if name in found and expected[name] != found[name]),
    ]
