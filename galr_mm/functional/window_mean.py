from __future__ import annotations

import numpy as np
import numpy.typing as npt


class WindowMean:
    """Mean of the values of the windows that lie on each pixel of a scene.

    It is the same between two neighboring edges of windows, so it is computed once for each cell of the grid of edges:
    exact, and without an array of the scene's size. One grid serves any number of values.

    Args:
        windows: left, top, right, bottom in pixels, ends excluded.
        height: of the scene.
        width: of the scene.

    Shapes:
        - windows: integers (n, 4)

    Attributes:
        y_edges: (rows + 1,) where the cells begin and end, from 0 to the height.
        x_edges: (columns + 1,) likewise, to the width.

    Raises:
        ValueError: when there is no window, or one is empty or leaves the scene.

    >>> mean = WindowMean(np.array([[0, 0, 2, 2], [1, 0, 3, 2]]), height=2, width=4)
    >>> mean.x_edges, mean(np.array([1.0, 3.0]))
    (array([0, 1, 2, 3, 4]), array([[ 1.,  2.,  3., nan]]))
    """

    def __init__(self, windows: npt.ArrayLike, height: int, width: int) -> None:
        windows = np.asarray(windows)
        if windows.ndim != 2 or windows.shape[1] != 4 or not len(windows):
            raise ValueError(f'expected windows (n, 4), at least one, got the shape {windows.shape}')
        left, top, right, bottom = windows.T
        wrong = ~((left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height))
        if wrong.any():
            index = int(wrong.argmax())
            raise ValueError(
                f'window {index} is {windows[index].tolist()} (left, top, right, bottom), expected one that is not '
                f'empty inside {width} x {height}'
            )
        self.y_edges = np.unique([0, *top, *bottom, height])
        self.x_edges = np.unique([0, *left, *right, width])
        self._rows = _covered(self.y_edges, top, bottom)
        self._columns = _covered(self.x_edges, left, right)
        self._count = self._rows.T @ self._columns

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Means (rows, columns) of one value a window (n,), float64; NaN in cells without a window."""
        if values.shape != self._rows.shape[:1] or not np.isfinite(values).all():
            raise ValueError(
                f'expected a finite value for each of {len(self._rows)} windows, got the shape {values.shape} with '
                f'{np.count_nonzero(~np.isfinite(values))} values that are not finite'
            )
        with np.errstate(invalid='ignore'):
            return (self._rows.T * values) @ self._columns / self._count


def _covered(edges: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which stretches between edges (n, stretches) each window covers along an axis, 0 or 1."""
    return ((first[:, None] <= edges[:-1]) & (edges[1:] <= last[:, None])).astype(np.float64)
