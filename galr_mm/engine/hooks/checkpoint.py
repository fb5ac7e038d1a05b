from __future__ import annotations

import os
import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from galr_mm.registry import HOOKS
from galr_mm.utils.io import atomic_write, write_text

ATOMIC = 'galr_mm.atomic'  # name of the backend below
KEY = 'resume_exactly'  # of a checkpoint


class AtomicLocalBackend(LocalBackend):
    """Local files that appear whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        with atomic_write(filepath) as part:
            part.write_bytes(obj)


register_backend(ATOMIC, AtomicLocalBackend, force=True)


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with which a training that was killed ends as one that was not.

    - A checkpoint appears whole, and the ones that it replaces go only then, so there is one at every moment.
    - Random states travel with it: what is drawn in this process (dropout, and the augmentation with ``num_workers=0``)
      goes on where it was. Workers that persist start their own draws anew.
    - mmengine saves an epoch before it is validated and never validates it when it resumes from there; this does, so
      the best checkpoint is that of an undisturbed run.

    Args:
        backend_args: where checkpoints are kept; by default local files.
        **kwargs: of mmengine's CheckpointHook.
    """

    def __init__(self, *, backend_args: dict | None = None, **kwargs: Any) -> None:
        if backend_args is None and '://' not in str(kwargs.get('out_dir')):
            backend_args = dict(backend=ATOMIC)
        super().__init__(backend_args=backend_args, **kwargs)
        self._resumed: dict[str, Any] | None = None
        self._states: list[dict[str, Any]] = []
        self._replaced: dict[str, str | None] = {}  # best checkpoints of before a validation

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add to what can be resumed from."""
        if 'optimizer' in checkpoint:
            done = runner.train_loop.epoch >= checkpoint['meta']['epoch']
            replaced = {path: identity(path) for path in self._replaced_best() if os.path.isfile(path)}
            checkpoint[KEY] = dict(states=self._states, validated=done, replaced=replaced)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note where to resume."""
        self._resumed = checkpoint.get(KEY) if runner._resume else None

    def before_train(self, runner: Runner) -> None:
        """Take up the random states, and the validation that is missing."""
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids: deque = deque(self.keep_ckpt_ids)  # holds one more while that is written
        if self._resumed is None:
            return
        states, validated = self._resumed['states'], self._resumed['validated']
        for path, file in self._resumed.get('replaced', {}).items():  # killed before it removed them
            here = self._path(os.path.basename(path))  # which may have moved, and hold later ones
            if os.path.isfile(here) and identity(here) == file:
                self._remove([here])
        self._resumed = None
        if get_rank() < len(states):
            set_random_states(states[get_rank()])
        loop = runner.train_loop
        if not validated and isinstance(loop, EpochBasedTrainLoop) and runner.val_loop is not None:
            loop._decide_current_val_interval()
            due = loop.epoch % loop.val_interval == 0 or loop.epoch == loop.max_epochs
            if due and loop.val_begin <= loop.epoch <= loop.max_epochs:  # beyond the end it is another training
                runner.val_loop.run()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """As mmengine's, but in another order: write, note, remove."""
        self._states = all_gather_object(random_states())
        outdated: list[str] = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            # one more than are kept, until the new one is whole: mmengine removes it when it resumes
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            while len(self.keep_ckpt_ids) > self.max_keep_ckpts:
                outdated.append(self._path(self.filename_tmpl.format(self.keep_ckpt_ids.popleft())))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self._path(name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_text(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
        self._remove(outdated + self._replaced_best())
        self._replaced = {}

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        """As mmengine's, but the best one before stays until the new one is whole."""
        if not self.save_best:
            return
        before = self._replaced = self._best()
        self._set_best(dict.fromkeys(before))  # so that mmengine finds none to remove
        super()._save_best_checkpoint(runner, metrics)
        self._remove(self._replaced_best())
        self._replaced = {}
        self._set_best({key: path or before[key] for key, path in self._best().items()})

    def _best(self) -> dict[str, str | None]:
        """Paths by metric; mmengine keeps one alone apart."""
        one = len(self.key_indicators) == 1
        return {'': self.best_ckpt_path} if one else dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _replaced_best(self) -> list[str]:
        """Best checkpoints for which there are better ones now."""
        now = self._best() if self._replaced else {}
        return [old for key, old in self._replaced.items() if old and now[key] not in (None, old)]

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _remove(self, paths: list[str]) -> None:
        for path in paths if is_main_process() else []:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # of deepspeed
                self.file_backend.rmtree(path)


def identity(path: str) -> list[int]:
    """What tells a local file from a later one of its name."""
    stat = os.stat(path)
    return [stat.st_mtime_ns, stat.st_size]


def random_states() -> dict[str, Any]:
    """States of all generators of this process, as plain values and tensors."""
    generator = np.random.get_state(legacy=False)
    keys, position = generator['state']['key'], generator['state']['pos']
    has_gauss, gauss = generator['has_gauss'], generator['gauss']
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return dict(
        python=random.getstate(),
        numpy=(torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        torch=torch.get_rng_state(),
        cuda=cuda,
    )


def set_random_states(states: dict[str, Any]) -> None:
    """Take up what :func:`random_states` gave."""
    random.setstate(states['python'])
    keys, *rest = states['numpy']
    np.random.set_state(('MT19937', keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states['cuda']])
