"""How values of more than 8 bit become pixels: a linear stretch for the whole file, from its own values.

Files of a data set get one for all bands, so that colors stay. Scenes of an archive, whose bands have each their own
haze and gain, get one for each band, as GIS programs draw them (:mod:`galr_mm.imagery.scene`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# of the values, in percent, that become black and white: a few hot pixels do not darken the image
CUT = 0.5
SCENE_CUT = 2.0
SAMPLED = 2**22
CHUNK = 2**20


class Stretch(NamedTuple):
    """Linear from ``low``, which becomes 0, to ``high``, which becomes 255; missing values become 0."""

    low: float
    high: float
    missing: float | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values (H, W, C) -> uint8 (H, W, C)."""
        out = np.zeros(values.shape, np.uint8)
        span = self.high - self.low
        if not span:
            return out
        rows = max(1, CHUNK // max(1, values[0].size))
        for top in range(0, len(values), rows):  # float64 of a whole scene would be eight times its size
            part = values[top : top + rows].astype(np.float64)
            known = _known(part, self.missing)
            scaled = np.where(known, (part - self.low) / span, 0)
            out[top : top + rows] = (scaled.clip(0, 1) * 255).round()
        return out


def sample_step(height: int, width: int) -> int:
    """Every so many rows and columns of an image are looked at for :func:`fit_stretch`; all of a small one."""
    return max(1, math.ceil(math.sqrt(height * width / SAMPLED)))


def fit_stretch(values: np.ndarray, missing: float | None = None, cut: float = CUT) -> Stretch:
    """The stretch of values: 0.5 % of them become black, 0.5 % white.

    Where these two are one value, it goes from the smallest to the largest one.

    Args:
        values: of every :func:`sample_step`-th row and column.
        missing: a value that stands for no value; NaN and infinite ones do too.
        cut: another percentage.

    >>> fit_stretch(np.arange(2001, dtype=np.uint16))
    Stretch(low=10.0, high=1990.0, missing=None)
    """
    values = values[_known(values, missing)]
    if not values.size:
        return Stretch(0.0, 0.0, missing)
    low, high = np.percentile(values, [cut, 100 - cut])
    if low == high:
        low, high = values.min(), values.max()
    return Stretch(float(low), float(high), missing)


def _known(values: np.ndarray, missing: float | None) -> np.ndarray:
    known = np.isfinite(values)
    return known if missing is None else known & (values != missing)
