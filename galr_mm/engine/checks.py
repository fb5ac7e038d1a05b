"""What a training or a test needs, checked before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from galr_mm.evaluation import RetrievalEvaluator
from galr_mm.utils.wrappers import unwrapped


class TrainingError(ValueError):
    """A setting that cannot train or test as it is."""


def check_training(loop: Any, model: nn.Module, schedulers: Any) -> Iterator[str]:
    """Warnings about a training loop.

    Args:
        loop: built, with its ``dataloader``.
        model: built.
        schedulers: ``param_scheduler`` of the config.

    Raises:
        TrainingError: when there would be no step, or proposals have classes that the model does not know.
    """
    yield from check_proposals(loop.dataloader.dataset, model)
    if isinstance(loop, EpochBasedTrainLoop):
        yield from check_batches(loop.dataloader)
    yield from _check_warm_up(loop, schedulers)


def check_batches(loader: Any) -> Iterator[str]:
    """Warnings about the batches of an epoch.

    Raises:
        TrainingError: when there would be none.
    """
    size, batch = len(loader.sampler), loader.batch_size
    if batch is None or size >= batch:
        return
    kind = {'each': 'captions', 'all': 'images'}.get(getattr(loader.dataset, 'captions', ''), 'samples')
    each = ' for each process' if get_world_size() > 1 else ''
    have = f'{size} training {kind}{each} are fewer than one batch (train_dataloader.batch_size={batch})'
    if loader.drop_last:
        raise TrainingError(
            f'{have}, and train_dataloader.drop_last=True drops it, so no step would be made; set '
            f'train_dataloader.batch_size={max(1, size // 4)} or so'
        )
    yield f'{have}: an epoch is one step of {size}. Set train_dataloader.batch_size to less for more steps'


def _check_warm_up(loop: Any, schedulers: Any) -> Iterator[str]:
    for index, scheduler in enumerate(schedulers if isinstance(schedulers, Sequence) else [schedulers]):
        if not isinstance(scheduler, dict) or 'Linear' not in str(scheduler.get('type')):
            continue
        by_epoch = scheduler.get('by_epoch', True)
        total = loop.max_epochs if by_epoch else loop.max_iters
        end = scheduler.get('end')
        if end is not None and end > total and scheduler.get('end_factor', 1.0) == 1.0:
            unit = 'epochs' if by_epoch else 'steps'
            name = f'param_scheduler.{index}.end' if isinstance(schedulers, Sequence) else 'param_scheduler.end'
            yield (
                f'the warm-up takes {end} {unit} and the training {total}: the learning rate never reaches its value. '
                f'Set {name} to less (--cfg-options {name}={max(1, total // 10)}), or train longer'
            )


def check_evaluation(loop: Any, name: str) -> None:
    """Stop where a loader leaves out images, which our evaluator would refuse after all others are encoded.

    Raises:
        TrainingError: names the setting.
    """
    loader, evaluator = loop.dataloader, loop.evaluator
    if not isinstance(evaluator, RetrievalEvaluator) or not loader.drop_last or not loader.batch_size:
        return
    if left_out := len(loader.sampler) % loader.batch_size:
        raise TrainingError(
            f'{name}.drop_last=True would leave out {left_out} of {len(loader.sampler)} images, and recalls are of '
            f'all: set {name}.drop_last=False'
        )


def check_proposals(dataset: Any, model: nn.Module) -> Iterator[str]:
    """Compare the classes of the proposals with those that the model's DREA was built for.

    Raises:
        TrainingError: when the proposals have more.
    """
    inner = unwrapped(model)
    known = getattr(getattr(getattr(inner, 'local', None), 'drea', None), 'num_classes', None)
    for part in innermost(dataset):
        classes = (getattr(part, 'metainfo', None) or {}).get('proposal_classes')
        if known is None or classes is None or len(classes) == known:
            continue
        names = ', '.join(classes)[:500]
        message = (
            f'the proposals of split {part.metainfo.get("split")!r} have {len(classes)} classes ({names}), but '
            f'model.local.drea.num_classes is {known}; set it to {len(classes)}'
        )
        if len(classes) > known:
            raise TrainingError(message)
        yield f'{message}, or its other node features stay empty'


def innermost(dataset: Any) -> list[Any]:
    """The data sets inside wrappers such as ConcatDataset and RepeatDataset."""
    inside = getattr(dataset, 'datasets', None) or [d for d in [getattr(dataset, 'dataset', None)] if d is not None]
    return [found for part in inside for found in innermost(part)] if inside else [dataset]
