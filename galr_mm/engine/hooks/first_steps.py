from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from galr_mm.registry import HOOKS


@HOOKS.register_module()
class FirstStepsHook(Hook):
    """Says after the second step how long the training will take; LoggerHook's first line may be minutes away."""

    def __init__(self) -> None:
        self.first: int | None = None  # step that this process began with
        self.since = 0.0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Time the second step; the first one also warms up."""
        if self.first is None:
            self.first, self.since = runner.iter, time.perf_counter()
        elif runner.iter == self.first + 1:
            seconds, left = time.perf_counter() - self.since, runner.max_iters - runner.iter - 1
            whole = timedelta(seconds=round(seconds * left))
            runner.logger.info(f'a step takes about {seconds:.2f} s: {left} more, without validation, about {whole}')
