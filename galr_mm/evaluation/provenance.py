"""Where a result comes from: settings, starting weights, data, machine and commit, without folders of the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from galr_mm.registry import DATASETS
from galr_mm.structures import RetrievalResult
from galr_mm.utils.config import AFTER_TRAINING, PACKAGE, READ_BY_RUNS, leaves

STARTS = ('pretrained', 'checkpoint', 'name_or_path', 'load_from')  # keys of a config that name ready weights


def starting_weights(cfg: Config) -> list[str]:
    """What the weights start from: ``key path: file or name`` for each of the config, nothing where all are random."""
    found = []
    for path, value in leaves(dict(model=cfg.model, load_from=cfg.get('load_from'))):
        key = path.rpartition('.')[2]
        if key in STARTS and value is True:  # the part itself knows which
            part = _holder(cfg, path)
            value = ' '.join(str(part[name]) for name in ('type', 'variant', 'model_name') if name in part)
        if key in STARTS and isinstance(value, str):
            found.append(f'{path}: {portable(value)}')
    return found


def training_hash(cfg: Config) -> str:
    """Of what a training depends on, not the file's name: a file may change. Folders of a machine do not count."""
    values = [(path, portable(value) if isinstance(value, str) else value) for path, value in leaves(_of_training(cfg))]
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def input_files(cfg: Config) -> dict[str, str]:
    """SHA-256 of the files that a training reads besides images, by where the config names them.

    Captions, proposals, vocabularies, weights to start from: a file of the same name may hold something else.
    """
    found = {}
    for path, value in leaves(_of_training(cfg)):
        if not isinstance(value, str) or not value:
            continue
        holder = _holder(cfg, path)
        root = (holder.get('data_root') if isinstance(holder, dict) else None) or ''
        candidates = {path: [Path(value), Path(root, value)]}
        if path.endswith('.ann_file') and cfg.model.get('local') and holder.get('proposal_file', 'auto') == 'auto':
            candidates[path.replace('ann_file', 'proposal_file')] = [Path(root, 'proposals.json')]
        for name, files in candidates.items():
            # os.path's answer to a text that is too long for a name is no, Path's an error
            if file := next((file for file in files if os.path.isfile(file)), None):
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def describe_data(cfg: Config, results: Mapping[str, RetrievalResult]) -> dict[str, Any]:
    """Annotation files with their sha256, and images and captions of each split."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    parts = getattr(dataset, 'datasets', [dataset])
    counts = {
        split: dict(images=len(result.image_ids), captions=len(result.text_ids)) for split, result in results.items()
    }
    files = sorted({Path(part.metainfo['ann_file']) for part in parts})
    return dict(
        files={f'{path.parent.name}/{path.name}': hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        train=dict(
            images=sum(part.metainfo['num_images'] for part in parts),
            captions=sum(part.metainfo['num_texts'] for part in parts),
        ),
        **counts,
    )


def describe_machine() -> dict[str, Any]:
    """Cores, processor and torch."""
    info = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*: (.*)', info.read_text()) if info.is_file() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(cores=cores, cpu=names[0] if names else platform.processor(), gpu=gpu, torch=torch.__version__)


def git_state() -> dict[str, Any]:
    """The commit of the code, and whether files that git knows differ from it; the results themselves do not count."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(['git', '-C', PACKAGE.parent, *words], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!docs')
    return dict(commit=git('rev-parse', '--short', 'HEAD'), dirty=None if changed is None else bool(changed))


def _of_training(cfg: Config) -> dict[str, Any]:
    """The part of a config that a training depends on."""
    return {key: value for key, value in cfg.to_dict().items() if key in READ_BY_RUNS - AFTER_TRAINING}


def _holder(cfg: Config, path: str) -> Any:
    """The dict or list in which the value of a dotted name stands."""
    part: Any = cfg
    for name in path.split('.')[:-1]:
        part = part[int(name) if isinstance(part, (list, tuple)) else name]
    return part


def portable(word: str) -> str:
    """A word of a command line without folders of this machine: a path in the checkout relative to it, else a name."""
    key, sign, value = word.rpartition('=')
    path = Path(value)
    if not path.is_absolute():
        return word
    inside = path.is_relative_to(PACKAGE.parent)
    return key + sign + (path.relative_to(PACKAGE.parent).as_posix() if inside else path.name)
