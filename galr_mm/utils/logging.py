from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TypeVar

from mmengine.logging import print_log
from tqdm import tqdm

T = TypeVar('T')
_LOGGED: set[str] = set()
# how messages begin that are for the log file
FILE_ONLY = (
    '\n' + '-' * 60 + '\nSystem environment',
    'Config:\n',
    'Hooks will be executed',
    'Exp name: ',
    'Traceback (most recent call last)',
    'Using env variable ',
    'paramwise_options -- ',
    'Distributed training is not used, all SyncBatchNorm',
    # of what upstream calls in itself
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
)
FROZEN = ' is skipped since its requires_grad=False'  # one line a weight; ToolRunner says how many there are


def warn_once(key: str, message: str) -> None:
    """Log a warning by mmengine's current logger, the first time only that this process gives ``key``."""
    if key not in _LOGGED:
        _LOGGED.add(key)
        print_log(message, 'current', logging.WARNING)


def quiet_terminal(logger: logging.Logger) -> None:
    """Keep messages of ``FILE_ONLY``, and those on frozen weights, from the terminal; files get all."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_for_terminal)


def _is_for_terminal(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not (message.startswith(FILE_ONLY) or message.endswith(FROZEN))


def progress(items: Iterable[T] | None = None, **options: object) -> tqdm[T]:
    """A progress bar: on a terminal as usual, elsewhere (a log, a pipe) a line each half minute."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(items, mininterval=interval, maxinterval=max(interval, 10.0), **options)
