"""Reading a config file, with three lines that mmengine's inheritance alone cannot offer.

A child config's variable does not flow into the dicts of its base: mmengine has evaluated those already. Where a config
inherits from one of this project's, ``size``, ``batch_size`` and ``max_epochs`` are written where they belong, and
another variable that would change nothing is an error. A config that inherits from none of ours is left as it is.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.runner import Runner

LINES = ('size', 'batch_size', 'max_epochs')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SIZES = ('scale', 'crop_size', 'size')  # arguments of transforms, in pixels
# what runs read from a config besides the Runner's own arguments
RUNNER_EXTRAS = (
    'rerank',
    'rerank_cfg',
    'runner_type',
    'custom_imports',
    'find_unused_parameters',
    'sync_bn',
    'model_wrapper_cfg',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'tta_model',
    'tta_pipeline',
)
READ_BY_RUNS = {*inspect.signature(Runner.__init__).parameters, *RUNNER_EXTRAS} - {'self', 'cfg'}
# of these, what a training does not depend on
AFTER_TRAINING = {
    'rerank',
    'rerank_cfg',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'tta_model',
    'tta_pipeline',
}
PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (PACKAGE / '.mim/configs', PACKAGE.with_name('+galr_mm') / '.mim/configs')  # the second is mim's


class ConfigLineError(ValueError):
    """A line of a config that cannot do what it says."""


def is_shipped(path: str | Path) -> bool:
    """Whether a config is one of this project's, in a checkout or in an installed wheel."""
    return any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in SHIPPED)


def is_ours(path: str | Path) -> bool:
    """Whether a config is one of this project's or inherits from one."""
    return is_shipped(path) or any(map(is_ours, _bases(Path(path))))


def datasets_of(config: Any) -> Iterator[Any]:
    """The configs of the data sets inside wrappers such as ConcatDataset and RepeatDataset, or of the one itself."""
    inner = config.get('dataset') or config.get('datasets')
    if inner is None:
        yield config
    else:
        for child in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from datasets_of(child)


def leaves(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all that a config holds; tuples and lists are the same."""
    if isinstance(node, (Mapping, list, tuple)) and node:
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from leaves(value, f'{prefix}.{key}'.lstrip('.'))
    else:
        yield prefix, list(node) if isinstance(node, tuple) else node


def copied_variables(path: str | Path) -> set[str]:
    """Variables of our configs that ``path`` is or inherits from: what read them has copied them."""
    path = Path(path)
    found = [Config.fromfile(file) for file in ([path] if is_shipped(path) else _shipped(path))]
    return {name for cfg in found for name in cfg if name not in READ_BY_RUNS and name not in LINES}


def read_config_file(path: str | Path) -> Config:
    """``Config.fromfile``, with the lines of a config that inherits from ours.

    The most derived file that has such a line decides, unless a file below it sets the same setting in full
    (``train_dataloader = dict(batch_size=8)``). A name that the file reads itself is its own business.

    Raises:
        ConfigLineError: for a line with a wrong value, one beside the same setting in full, a variable of one of our
            configs that is set again without being read (``data_root``, ``train_pipeline``), and a slip of a name
            that runs read (``max_epoch``).
    """
    cfg = Config.fromfile(path)
    path = Path(path)
    if is_shipped(path) or not is_ours(path):
        return cfg
    lines: dict[str, object] = {}
    decided: set[str] = set()
    for file in _own(path):
        here = cfg if file == path else Config.fromfile(file)
        names, read = _names(file)
        above = [Config.fromfile(base) for base in _bases(file)]
        new = {
            name for name in (names & here.keys()) - read - decided if here[name] not in [b.get(name) for b in above]
        }
        if idle := sorted(new & copied_variables(file)):
            raise ConfigLineError(
                f'{file}: {idle[0]} is copied into other settings of the config that it inherits from, so this line '
                'changes nothing. Set those, e.g. train_dataloader = dict(dataset=dict(...)). '
                f'{", ".join(LINES)} are the names that a line alone sets'
            )
        for name in sorted(names - read):
            if not any(name in base for base in above) and (meant := meant_by(name, {*READ_BY_RUNS, *LINES})):
                raise ConfigLineError(
                    f'{file}: {name} is read by nothing; did you mean {meant}? (A variable of your own needs another '
                    'name, or is read in this file.)'
                )
        for name in new & set(LINES):
            in_full = _target(here, name)
            if in_full != next(filter(None, (_target(base, name) for base in above)), None):
                raise ConfigLineError(
                    f'{file} has the line {name} = {here[name]!r} and sets the same in full; keep one'
                )
            if in_full == _target(cfg, name):  # no file below sets it
                lines[name] = here[name]
        decided |= names
    for name, value in lines.items():
        apply_line(cfg, name, value)
    return cfg


def meant_by(name: str, known: Collection[str]) -> str | None:
    """The known setting that a name is a slip of, by one letter or a little more; None for names of other kinds.

    >>> [meant_by(name, ['max_epochs', 'model', 'rerank']) for name in ('max_epoch', 'modle', 'rerank', 'own')]
    ['max_epochs', 'model', None, None]
    """
    if name in known:
        return None
    near = [other for other in sorted(known) if _one_slip(name, other)]
    return next(iter(near or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.85)), None)


def _one_slip(name: str, other: str) -> bool:
    """Whether names differ by one letter added, left out or replaced, or by two neighbors exchanged."""
    start = len(os.path.commonprefix([name, other]))
    a, b = name[start:], other[start:]
    return any([a[1:] == b[1:], a[1:] == b, a == b[1:], a[:2] == b[1::-1] and a[2:] == b[2:]])


def apply_line(cfg: Config, name: str, value: object) -> None:
    """Write one of ``LINES`` where it belongs.

    ``size`` scales the pixels of all pipelines alike, so an image that was resized to 278 and cropped to 256 is resized
    to 104 and cropped to 96. ``max_epochs`` moves the end of schedules that ended with the training.

    Raises:
        ConfigLineError: when the value is not a whole number of 1 or more, or the config has nothing to set.
    """
    if name == 'size' and isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigLineError(f'{name} is {value!r}, expected a whole number of 1 or more')
    if name == 'batch_size':
        loader = cfg.get('train_dataloader')
        if loader is None or 'batch_size' not in loader:
            raise ConfigLineError('batch_size: the config has no train_dataloader.batch_size to set')
        loader.batch_size = value
    elif name == 'max_epochs':
        before = (cfg.get('train_cfg') or {}).get('max_epochs')
        if before is None:
            raise ConfigLineError('max_epochs: the config has no train_cfg.max_epochs to set')
        cfg.train_cfg.max_epochs = value
        for scheduler in _dicts(cfg.get('param_scheduler')):
            for key in ('T_max', 'end', 'total_iters'):
                if scheduler.get('by_epoch', True) and scheduler.get(key) == before:
                    scheduler[key] = value
    else:
        _resize(cfg, value)


def _resize(cfg: Config, size: int) -> None:
    loaders = [cfg[name] for name in LOADERS if cfg.get(name) is not None]
    pixels = [
        (step, key)
        for loader in loaders
        for step in _dicts(_pipelines(loader))
        for key in SIZES
        if step.get(key) is not None and all(isinstance(n, int) for n in _sides(step[key]))
    ]
    if not pixels:
        raise ConfigLineError(
            'size: no pipeline resizes to pixels of the config (a CLIP brings the size of its images)'
        )
    step, key = pixels[-1]  # the last of the last loader is what a test sees
    now = set(_sides(step[key]))
    if len(now) > 1:
        raise ConfigLineError(f'size: images are {step[key]}, not square; set the pipelines')
    ratio = size / now.pop()
    done: set[tuple[int, str]] = set()
    for step, key in pixels:
        if (id(step), key) not in done:  # loaders may share a pipeline
            done.add((id(step), key))
            scaled = tuple(round(side * ratio) for side in _sides(step[key]))
            step[key] = scaled[0] if isinstance(step[key], int) else scaled


def _sides(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _pipelines(node: Any) -> list[Any]:
    """The pipelines of a data set and of those that it wraps."""
    if isinstance(node, dict):
        return [found for key, value in node.items() for found in ([value] if key == 'pipeline' else _pipelines(value))]
    return [found for value in node for found in _pipelines(value)] if isinstance(node, (list, tuple)) else []


def _dicts(node: Any) -> Iterator[dict[str, Any]]:
    """All dicts below, in order."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(value)


def _target(cfg: Config, name: str) -> object:
    """What a line sets."""
    loaders = [cfg.get(loader) or {} for loader in LOADERS]
    if name == 'batch_size':
        return loaders[0].get('batch_size')
    if name == 'max_epochs':
        return (cfg.get('train_cfg') or {}).get('max_epochs')
    return [_pipelines(loader) for loader in loaders] if any(map(_pipelines, loaders)) else None


def _own(path: Path) -> Iterator[Path]:
    """The file and those it inherits from that are not shipped, child first."""
    if not is_shipped(path):
        yield path
        for base in _bases(path):
            yield from _own(base)


def _shipped(path: Path) -> Iterator[Path]:
    """The shipped files that a config inherits from, the nearest of each branch."""
    for base in _bases(path):
        yield from [base] if is_shipped(base) else _shipped(base)


def _bases(path: Path) -> list[Path]:
    """The files that a config inherits from, found by mmengine's own steps, without those of other packages."""
    with TemporaryDirectory() as folder:
        copy = str(Path(folder, path.name))
        Config._substitute_predefined_vars(str(path), copy)
        Config._substitute_env_variables(copy, copy)
        Config._pre_substitute_base_vars(copy, copy)
        names = Config._get_base_files(copy)
    own = [name for name in names if '::' not in name or name.startswith('galr_mm::')]
    return [Path(Config._get_cfg_path(name, str(path))[0]) for name in own]


def _names(path: Path) -> tuple[set[str], set[str]]:
    """The variables that a config file sets, and the names that it reads."""
    if path.suffix != '.py':
        return set(mmengine.load(str(path))), set()
    tree = _parse(path)
    stores = [node.id for s in tree.body for node in ast.walk(s) if isinstance(node, ast.Name) and _is_store(node)]
    loads = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not _is_store(node)]
    return set(stores) - {'_base_'}, set(loads)


def _is_store(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _parse(path: Path) -> ast.Module:
    """The file as mmengine sees it, its ``{{ templates }}`` left out."""
    return ast.parse(re.sub(r'\{\{.*?\}\}', '0', path.read_text(encoding='utf-8')))
