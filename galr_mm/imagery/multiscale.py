"""Windows of several sizes over a scene, as semantic localization cuts it."""

from __future__ import annotations

from collections.abc import Sequence

from galr_mm.imagery.tiles import Window

SCALES = (256, 512, 768)  # published


def multiscale_windows(height: int, width: int, scales: Sequence[int] = SCALES) -> list[Window]:
    """Windows of each scale s in two grids of stride s, from 0 and from s / 2, row by row; equal ones once.

    The last of a row or column is moved inside, as in the published code; along a side shorter than s a window is as
    long as the side.

    Raises:
        ValueError: when there is no scale, or one of them or a side of the scene is less than 1.

    >>> multiscale_windows(100, 150, scales=[100])
    [Window(left=0, top=0, right=100, bottom=100), Window(left=50, top=0, right=150, bottom=100)]
    """
    if not len(scales) or min(scales) < 1:
        raise ValueError(f'scales are {list(scales)}, expected at least one, of 1 pixel or more')
    if min(height, width) < 1:
        raise ValueError(f'a scene of {width} x {height} pixels has no window')
    found = {
        Window(left, top, min(left + scale, width), min(top + scale, height)): None
        for scale in scales
        for offset in (0, scale - scale // 2)
        for top in _starts(height, scale, offset)
        for left in _starts(width, scale, offset)
    }
    return list(found)


def _starts(length: int, scale: int, offset: int) -> list[int]:
    last = max(length - scale, 0)
    return [min(start, last) for start in range(offset, length, scale)] or [0]
