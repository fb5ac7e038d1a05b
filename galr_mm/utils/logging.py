from __future__ import annotations

import logging

from mmengine.logging import print_log

_LOGGED: set[str] = set()


def warn_once(key: str, message: str) -> None:
    """Log a warning by mmengine's current logger, the first time only that this process gives ``key``."""
    if key not in _LOGGED:
        _LOGGED.add(key)
        print_log(message, 'current', logging.WARNING)
