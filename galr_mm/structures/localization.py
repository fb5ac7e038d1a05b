from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from galr_mm.utils.io import atomic_write


@dataclass(frozen=True)
class SceneEmbeddings:
    """A scene as its windows and their embeddings: what sentences are compared with.

    Shapes:
        - windows: integers (n, 4): left, top, right, bottom in pixels, ends excluded
        - vectors: (n, D), L2-normalized
    """

    height: int
    width: int
    windows: np.ndarray | Sequence[tuple[int, int, int, int]]
    vectors: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.windows):
            raise ValueError(
                f'expected a vector for each of {len(self.windows)} windows, (n, D), got {tuple(self.vectors.shape)}'
            )


@dataclass(frozen=True)
class LocalizationMap:
    """Where in a scene a sentence is true: the mean similarity of the windows on each pixel.

    It is constant between the edges of windows and kept in such cells; the arrays of the scene's size are made when
    asked for.

    Shapes:
        - y_edges: (rows + 1,) from 0 to the height; x_edges: (columns + 1,) from 0 to the width
        - cells: float32 (rows, columns), NaN where no window lies
    """

    sentence: str
    y_edges: np.ndarray
    x_edges: np.ndarray
    cells: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """Raw similarities, float32 (H, W): comparable between sentences and scenes, NaN where no window lies."""
        return self._expand(self.cells)

    def normalized(self, median: int = 0) -> np.ndarray:
        """The map in 0..1 as published: (x - min) / (max - min) of this scene, float32 (H, W).

        There is always a 1 in it, whether the sentence is true somewhere or not: see :attr:`similarity`. A map of one
        value, and pixels without a window, are 0.

        Args:
            median: side of a median filter in pixels, odd, 251 as published, which rounds the map down to 8 bits; 0
                leaves it out.

        Raises:
            ValueError: when ``median`` is neither 0 nor odd.
        """
        if median < 0 or (median and not median % 2):
            raise ValueError(f'median is {median}, expected 0 or an odd number of pixels')
        cells = self.cells.astype(np.float64)
        low, high = np.nanmin(cells), np.nanmax(cells)
        cells = np.nan_to_num((cells - low) / (high - low or 1.0))
        if not median:
            return self._expand(cells.astype(np.float32))
        blurred = cv2.medianBlur(self._expand(_to_8_bit(cells)), median)
        return blurred / np.float32(255)

    def save(self, path: str | Path, median: int = 0) -> None:
        """Write ``.png``, the normalized map in 8 bits, or ``.npy``, the raw similarities.

        Raises:
            ValueError: for another suffix.
        """
        path = Path(path)
        if path.suffix == '.npy':
            with atomic_write(path) as part, part.open('wb') as file:
                np.save(file, self.similarity)
        elif path.suffix == '.png':
            _, code = cv2.imencode('.png', _to_8_bit(self.normalized(median)))
            with atomic_write(path) as part:
                part.write_bytes(code.tobytes())
        else:
            raise ValueError(f'{path} ends in {path.suffix!r}, expected .png (normalized) or .npy (raw similarities)')

    def _expand(self, cells: np.ndarray) -> np.ndarray:
        return cells.repeat(np.diff(self.y_edges), axis=0).repeat(np.diff(self.x_edges), axis=1)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    return (values * 255).astype(np.uint8)
