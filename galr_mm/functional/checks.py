"""Numbers among settings, checked before long work starts."""

from __future__ import annotations

import math
from numbers import Real

from galr_mm.messages import shorten


def check_whole(name: str, value: float) -> None:
    """Refuse what is not a whole number of 1 or more.

    Raises:
        ValueError: names the option and the value.
    """
    if not is_finite(value) or int(value) != value or value < 1:
        raise ValueError(f'{name} is {shorten(value)}, expected a whole number of 1 or more')


def check_switch(name: str, value: bool) -> bool:
    """Give a bool back; refuse what only looks like one, such as the word 'no', which counts as true.

    Raises:
        ValueError: names the option and the value.
    """
    if type(value) is not bool:
        raise ValueError(f'{name} is {shorten(value)}, expected True or False')
    return value


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ValueError: names the option and the value.
    """
    if not is_finite(value) or value <= 0:
        raise ValueError(f'{name} is {shorten(value)}, expected a finite number above 0')


def is_finite(value: object) -> bool:
    """Whether a value is a number, no bool, and neither NaN nor infinite."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False
