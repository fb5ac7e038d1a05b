"""How a tool ends where something is wrong: one line on standard error that says what, and exit code 1."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

from mmengine.logging import MMLogger

from galr_mm.messages import clip

OF_INPUT = (OSError, ValueError, ImportError)  # what bad files, settings and places make; their messages name it
# what an option that is annotated so may be
PLAIN = {'int': (int,), 'float': (float, int), 'str': (str,), 'bool': (bool,), 'None': (type(None),)}
LONGEST = 1900  # characters of a message

P = ParamSpec('P')


def one_line(main: Callable[P, None]) -> Callable[P, None]:
    """Let the ``main`` of a tool end with a message, not a traceback, where its input is wrong."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        logging.raiseExceptions = False  # of a log that cannot be written: on a full disk the results say so
        try:
            main(*args, **kwargs)
        except OF_INPUT as error:
            raise SystemExit(clip(error, LONGEST)) from error

    return run


@contextmanager
def settings_of(config: str | Path) -> Iterator[None]:
    """Say which part of a config an error came from; its parts are anyone's Python, so they raise anything.

    The traceback goes to the log file of the run, where there is one; with ``log_level='DEBUG'`` to the terminal too.

    Raises:
        ValueError: with the config, its part, the error and the line of code that raised it.
    """
    try:
        yield
    except Exception as error:
        log, (part, options) = _log_traceback(), _part_of(error)
        name = None if part is None else part.__name__
        if isinstance(error, OF_INPUT) and part is None:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(frame.filename).name}, line {frame.lineno}{f"; more in {log}" if log else ""}'
        text = clip(error.args[0] if isinstance(error, KeyError) and error.args else error, LONGEST - 500)
        kind = '' if isinstance(error, OF_INPUT) else f'{type(error).__name__}: '
        text += _accepted(error, part) or _mistyped(part, options)
        raise ValueError(f'{config}{f", {name}" if name else ""}: {kind}{text} ({where})') from error


def _part_of(error: Exception) -> tuple[type | None, dict[str, object]]:
    """The class that a registry was building when it failed, and its options; None where it was building none."""
    part, options = None, {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == 'build_from_cfg' and isinstance(frame.f_locals.get('obj_cls'), type):
            part, options = frame.f_locals['obj_cls'], dict(frame.f_locals['args'])
    return part, options


def _accepted(error: Exception, part: type | None) -> str:
    """The arguments of a class that was given another one; empty for other errors."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if part is None or not wrong:
        return ''
    names = [name for name in inspect.signature(part).parameters if name not in ('args', 'kwargs', 'init_cfg')]
    close = difflib.get_close_matches(wrong[1], names, n=1)
    return f'; did you mean {close[0]!r}?' if close else f'; it takes {clip(", ".join(names), 300)}'


def _mistyped(part: type | None, options: Mapping[str, object]) -> str:
    """The options of a class that are not of the plain type it names; empty where there is none."""
    wrong = []
    init = getattr(part, '__init__', None)  # a class of C has no signature to inspect, and no annotations
    for name, annotation in getattr(init, '__annotations__', {}).items():
        kinds = str(annotation).split(' | ')
        accepted = [accepted for kind in kinds for accepted in PLAIN.get(kind, ())]
        if name in options and set(kinds) <= PLAIN.keys() and type(options[name]) not in accepted:
            wrong.append(f'{name} is {options[name]!r}, expected {" or ".join(kinds)}')
    return f'; {"; ".join(wrong)}' if wrong else ''


def _log_traceback() -> str | None:
    """Write the traceback of the present error to the log file; its path."""
    logger = MMLogger.get_current_instance()
    files = [handler.baseFilename for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    if files:
        logger.error(traceback.format_exc())
    return files[0] if files else None
