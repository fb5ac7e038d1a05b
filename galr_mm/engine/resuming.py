"""Going on from a checkpoint: what changed since, and what cannot be right."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from galr_mm.detection.saved_config import read_config_text
from galr_mm.engine.checks import TrainingError
from galr_mm.messages import first_of
from galr_mm.utils.config import AFTER_TRAINING, READ_BY_RUNS, leaves
from galr_mm.utils.wrappers import unwrapped

# what may change between the parts of a training
IDLE = AFTER_TRAINING | {
    'work_dir', 'resume', 'load_from', 'launcher', 'log_level', 'log_processor', 'visualizer', 'experiment_name',
    'env_cfg', 'default_scope',
}  # fmt: skip
SHOWN = 12
LONGEST = 80


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint to resume from: what ``last_checkpoint`` names, else the newest whole one; None where none is.

    mmengine notes the path at the time of saving; in a work directory that was moved or copied since, the file of that
    name is taken which is there now. A stop while a checkpoint is written leaves a part of it, or a note of one that
    had to make room.

    Raises:
        TrainingError: when checkpoints are noted or there, and none is whole; lists them.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    text = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    named = [work_dir / Path(text).name, Path(text)] if text else []  # the second for CheckpointHook(out_dir=...)
    there = [path for kind in ('epoch', 'iter') for path in work_dir.glob(f'{kind}_*.pth')]
    newest_first = sorted(there, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [*named, *newest_first]:
        if path.is_dir() or zipfile.is_zipfile(path):  # DeepSpeed's are folders; a zip's directory is written last
            if named and path not in named:
                print_log(f'{text}, which {note} names, is not whole; resuming from {path}', 'current', logging.WARNING)
            return path
    if text or there:
        listed = ', '.join(sorted(path.name for path in there)[:10]) or 'no other'
        raise TrainingError(
            f'--resume: {note} names {text or "nothing"}, which is not a whole checkpoint ({listed} in {work_dir}); '
            'name one yourself (--resume CHECKPOINT), or remove the folder to start again'
        )
    return None


def require_fitting(checkpoint: Mapping[str, Any], model: nn.Module, filename: str) -> None:
    """Refuse weights of another model, which mmengine would load in part.

    Weights that are kept out of checkpoints and not trained may be missing.

    Raises:
        TrainingError: when the checkpoint cannot be resumed from, or weights are missing, too many or of another shape.
    """
    lacking = [key for key in ('meta', 'optimizer', 'message_hub') if key not in checkpoint]
    if lacking or 'epoch' not in checkpoint['meta']:
        raise TrainingError(
            f'--resume: {filename} holds weights only (no {", ".join(lacking) or "epoch"} of a training); '
            'to start from these weights: --cfg-options load_from=FILE'
        )
    inner = unwrapped(model)
    weights = {name.removeprefix('module.'): value for name, value in checkpoint['state_dict'].items()}
    try:
        missing, unexpected = inner.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other shapes
        raise TrainingError(f'--resume: {filename} is of another model: {str(error)[:1500]}') from error
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    problems = [f'{name} is missing' for name in missing if name in trained]
    problems += [f'{name} is not in the model' for name in unexpected]
    if problems:
        more = f' and {len(problems) - 5} more' if len(problems) > 5 else ''
        raise TrainingError(f'--resume: {filename} is of another model: {", ".join(problems[:5])}{more}')


def describe_start(checkpoint: Mapping[str, Any], model: nn.Module, filename: str) -> str | None:
    """What of a file of weights, from which a training or a test starts, is not in the model, and the other way round.

    Weights that are kept out of checkpoints and not trained may be missing.

    Returns:
        A warning, or None where all fit.

    Raises:
        TrainingError: when no weight fits: the training would start from nothing and look as if it did not.
    """
    inner = unwrapped(model)
    own = {name: getattr(value, 'shape', None) for name, value in inner.state_dict().items()}
    weights = {
        name.removeprefix('module.'): getattr(value, 'shape', None)
        for name, value in checkpoint.get('state_dict', checkpoint).items()
    }
    fitting = {name for name, shape in weights.items() if own.get(name) == shape}
    if not fitting:
        raise TrainingError(
            f'load_from: {filename} holds no weight of this model: {first_of(sorted(map(str, weights)))} there, '
            f'{first_of(sorted(own))} here, or other shapes'
        )
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    others = [
        f'{len(names)} {what} ({first_of(names)})'
        for what, names in (
            ('of the model keep what they have', sorted(trained - fitting)),
            ('of the file are not in the model, or of another shape', sorted(weights.keys() - fitting)),
        )
        if names
    ]
    return f'{filename}: {len(fitting)} weights are taken, {"; ".join(others)}' if others else None


def compare_configs(saved: str | None, cfg: Config, filename: str) -> Iterator[str]:
    """What differs between the config inside a checkpoint and the present one.

    Learning rates, and the course they take, are part of the checkpoint's state, which mmengine restores over the
    config: a change of their values has no effect, and one of their kind cannot be restored.

    Raises:
        TrainingError: for another optimizer or other schedulers.
    """
    try:
        old = read_config_text(saved or '', filename)
    except ValueError:
        old = {}
    if not old:
        yield f'{filename} holds no readable config, so what changed since is not known'
        return
    before, now = (dict(leaves({k: v for k, v in c.items() if k in READ_BY_RUNS - IDLE})) for c in (old, cfg.to_dict()))
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    names = [name for name in names if not name.startswith('default_hooks.logger')]
    changes = {name: f'{name}: {_short(before.get(name))} -> {_short(now.get(name))}' for name in names}
    for name, change in changes.items():
        kind = name.startswith('param_scheduler') and (name.endswith('.type') or name not in before.keys() & now.keys())
        if kind or name == 'optim_wrapper.optimizer.type':
            raise TrainingError(
                f'--resume: {filename} holds the state of another optimizer or schedule ({change}). Start from its '
                f'weights alone (--cfg-options load_from={filename}, another --work-dir), or set it back'
            )
    restored = [name for name in changes if name.startswith(('optim_wrapper.optimizer.', 'param_scheduler'))]
    if restored:
        yield 'changed, but restored from the checkpoint, so without effect: ' + _listed([changes[n] for n in restored])
    others = [change for name, change in changes.items() if name not in restored]
    if others:
        yield 'changed since the checkpoint: ' + _listed(others)
    if any(name.startswith('train_cfg.max_') for name in changes):
        yield 'the learning rate keeps the schedule of the checkpoint, which was made for its number of epochs'


def drop_foreign_files(checkpoint: Mapping[str, Any], filename: Path, folder: Path) -> Iterator[str]:
    """Keep CheckpointHook from deleting files that are not of this training when better or later ones come.

    Their paths and epochs are in the state of the training. Where the work directory was moved, the best checkpoint is
    there under its name; where the training goes on in another one, the best is chosen anew.
    """
    info = checkpoint['message_hub'].get('runtime_info', {})
    inside = filename.resolve().parent == folder.resolve()
    if not inside:
        info.pop('keep_ckpt_ids', None)
    for key in [key for key in info if key.startswith('best_ckpt') and info[key]]:
        best = Path(info[key])
        if best.resolve().parent == folder.resolve():
            continue
        if inside and (folder / best.name).is_file():
            info[key] = str(folder / best.name)
            continue
        score = info.pop(key.replace('best_ckpt', 'best_score'), None)
        del info[key]
        yield (
            f'{filename} comes from another folder; its best checkpoint ({best.name}, {_short(score)}) stays there, '
            f'and {folder} gets one of the epochs from here on'
        )


def _short(value: object) -> str:
    text = 'nothing' if value is None else repr(value)
    return text if len(text) <= LONGEST else f'{text[:LONGEST]}...'


def _listed(changes: list[str]) -> str:
    more = f'; and {len(changes) - SHOWN} more' if len(changes) > SHOWN else ''
    return '; '.join(changes[:SHOWN]) + more
