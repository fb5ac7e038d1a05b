from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from galr_mm.engine.checks import TrainingError, check_evaluation, check_proposals, check_training
from galr_mm.engine.hooks import FirstStepsHook
from galr_mm.engine.resuming import (
    compare_configs,
    describe_start,
    drop_foreign_files,
    latest_checkpoint,
    require_fitting,
)
from galr_mm.utils.logging import quiet_terminal


class ToolRunner(Runner):
    """mmengine's Runner as our tools start it.

    - The terminal shows what a person needs; configs, hooks and the environment are in the log file.
    - Settings that cannot train as they are, are named before the first step.
    - Resuming says what has changed since the checkpoint, and refuses what cannot be right.

    Raises:
        TrainingError: names the setting to change.
    """

    _resume: bool | str
    _load_from: str | None

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """The logger of mmengine with a quieter terminal, unless ``log_level`` is DEBUG."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        if log_level not in ('DEBUG', logging.DEBUG):
            quiet_terminal(logger)
        logger.info(f'config, environment and all messages: {self._log_dir}/{self.timestamp}.log')
        return logger

    def build_train_loop(self, loop: Any) -> Any:
        """The loop, checked."""
        loop = super().build_train_loop(loop)
        for warning in check_training(loop, self.model, self.cfg.get('param_scheduler')):
            self.logger.warning(warning)
        return loop

    def build_val_loop(self, loop: Any) -> Any:
        """The loop, checked."""
        return self._checked(super().build_val_loop(loop), 'val_dataloader')

    def build_test_loop(self, loop: Any) -> Any:
        """The loop, checked."""
        return self._checked(super().build_test_loop(loop), 'test_dataloader')

    def _checked(self, loop: Any, name: str) -> Any:
        check_evaluation(loop, name)
        for warning in check_proposals(loop.dataloader.dataset, self.model):
            self.logger.warning(warning)
        return loop

    def train(self) -> Any:
        """Train; says how much of the model is trained, and soon how long it will take."""
        weights = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        trained, total = sum(count for count, free in weights if free), sum(count for count, _ in weights)
        self.logger.info(f'{trained:,} of {total:,} weights are trained{", the others are frozen" * (trained < total)}')
        self.register_hook(FirstStepsHook())
        return super().train()

    def test(self) -> dict[str, float]:
        """Test; the first process alone writes the metrics: mmengine lets all write to one file at once."""
        if not is_main_process():
            self._hooks = [hook for hook in self.hooks if not isinstance(hook, LoggerHook)]
        return super().test()

    def load_or_resume(self) -> None:
        """Load or resume; ``resume='auto'`` without a checkpoint in the work directory starts from ``load_from``."""
        automatic = self._resume == 'auto' or (self._resume and self._load_from is None)
        if automatic and not self._has_loaded:
            latest = latest_checkpoint(self.work_dir)
            if latest is None:
                start = '' if self._load_from is None else f' from the weights of {self._load_from}'
                self.logger.info(f'nothing to resume in {self.work_dir} yet: the training starts{start}')
            else:
                self._load_from = str(latest)
            self._resume = latest is not None
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume, where the checkpoint is one of this model and optimizer."""
        try:
            super().resume(filename, *args, **kwargs)
        except TrainingError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:  # of optimizer and schedulers
            raise TrainingError(f'--resume: {filename} does not fit this config: {error}') from error
        last, loop = self.epoch, self.train_loop
        if last >= getattr(loop, 'max_epochs', last + 1) or self.iter >= loop.max_iters:
            self.logger.warning(
                f'{filename} is of epoch {last}, where this training ends: nothing is left to do. To train on, raise '
                'train_cfg.max_epochs'
            )

    def load_checkpoint(self, filename: str, map_location: str | Callable = 'cpu', *args: Any, **kwargs: Any) -> Any:
        """Load; say what of it does not fit, and when resuming compare it with what is to go on from it."""
        checkpoint = super().load_checkpoint(filename, map_location, *args, **kwargs)
        if not self._resume:
            if message := describe_start(checkpoint, self.model, filename):
                self.logger.warning(message)
        else:
            require_fitting(checkpoint, self.model, filename)
            for message in compare_configs(checkpoint['meta'].get('cfg'), self.cfg, filename):
                self.logger.warning(message)
            for message in drop_foreign_files(checkpoint, Path(filename), self._best_folder()):
                self.logger.warning(message)
        return checkpoint

    def _best_folder(self) -> Path:
        """Where CheckpointHook will write."""
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook) and hook.out_dir not in (None, self.work_dir):
                return Path(hook.out_dir) / Path(self.work_dir).name
        return Path(self.work_dir)
