from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from galr_mm.integrations.gdal import BLOCK, write_raster
from galr_mm.utils.io import atomic_write

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MAX_DRAWN = 1 << 26  # pixels of a .png; a larger map is drawn smaller


class Place(NamedTuple):
    """Where the pixels of a scene are.

    ``crs`` is the coordinate reference system as 'EPSG:...' or WKT, None where it is not known; ``transform`` holds the
    a, b, c, d, e, f of x = a column + b row + c, y = d column + e row + f.
    """

    crs: str | None = None
    transform: tuple[float, ...] = IDENTITY


@dataclass(frozen=True)
class SceneEmbeddings:
    """A scene as its windows and their embeddings: what sentences are compared with.

    ``place`` says where it is, for maps that are written as GeoTIFF.

    Shapes:
        - windows: integers (n, 4): left, top, right, bottom in pixels, ends excluded
        - vectors: (n, D), L2-normalized
    """

    height: int
    width: int
    windows: np.ndarray | Sequence[tuple[int, int, int, int]]
    vectors: Tensor
    place: Place = Place()

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
    place: Place = Place()

    @property
    def peak_cell(self) -> tuple[int, int]:
        """Row and column of the cell of the highest similarity, the first of equal ones."""
        row, column = np.unravel_index(np.nanargmax(self.cells), self.cells.shape)
        return int(row), int(column)

    @property
    def peak(self) -> tuple[float, float]:
        """Column and row, in pixels, of the middle of that cell."""
        row, column = self.peak_cell
        return float(self.x_edges[column : column + 2].mean()), float(self.y_edges[row : row + 2].mean())

    @property
    def similarity(self) -> np.ndarray:
        """Raw similarities, float32 (H, W): comparable between sentences and scenes, NaN where no window lies."""
        return self._expand(self.cells)

    def normalized(self, median: int = 0, step: int = 1) -> np.ndarray:
        """The map in 0..1 as published: (x - min) / (max - min) of this scene, float32 (H, W).

        There is always a 1 in it, whether the sentence is true somewhere or not: see :attr:`similarity`. A map of one
        value, and pixels without a window, are 0.

        Args:
            median: side of a median filter in pixels, odd, 251 as published, which rounds the map down to 8 bits; 0
                leaves it out.
            step: give every so many rows and columns only, before the filter.

        Raises:
            ValueError: when ``median`` is neither 0 nor odd.
        """
        if median < 0 or (median and not median % 2):
            raise ValueError(f'median is {median}, expected 0 or an odd number of pixels')
        cells = self.cells.astype(np.float64)
        low, high = np.nanmin(cells), np.nanmax(cells)
        cells = np.nan_to_num((cells - low) / (high - low or 1.0))
        if not median:
            return self._expand(cells.astype(np.float32), step)
        blurred = cv2.medianBlur(self._expand(_to_8_bit(cells), step), median // step | 1)
        return blurred / np.float32(255)

    def save(self, path: str | Path, median: int = 0) -> None:
        """Write ``.png``, the normalized map in 8 bits, or raw similarities: ``.npy``, or ``.tif`` with its place.

        A .png of more than 67 million pixels has every second or third of its rows and columns, and so on.

        Raises:
            ValueError: for another suffix.
            ImportError: for a .tif without rasterio; names the extra.
        """
        path = Path(path)
        write = {'.png': self._save_png, '.npy': self._save_npy, '.tif': self._save_tif}.get(path.suffix)
        if write is None:
            raise ValueError(
                f'{path} ends in {path.suffix!r}, expected .png (normalized), .npy or .tif (raw similarities)'
            )
        with atomic_write(path) as part:
            write(part, median)

    def _save_png(self, path: Path, median: int) -> None:
        step = math.ceil(math.sqrt(int(self.y_edges[-1]) * int(self.x_edges[-1]) / MAX_DRAWN))
        _, code = cv2.imencode('.png', _to_8_bit(self.normalized(median, max(1, step))))
        path.write_bytes(code.tobytes())

    def _save_npy(self, path: Path, median: int) -> None:
        similarity = np.ascontiguousarray(self.similarity)
        header = np.lib.format.header_data_from_array_1_0(similarity)
        with path.open('wb') as file:  # the errors of np.save on a full disk have neither a number nor a file
            np.lib.format.write_array_header_1_0(file, header)
            file.write(similarity.data)

    def _save_tif(self, path: Path, median: int) -> None:
        write_raster(path, self._rows(), int(self.x_edges[-1]), int(self.y_edges[-1]), *self.place)

    def _rows(self) -> Iterator[np.ndarray]:
        """The similarities from top to bottom, a few rows at a time."""
        columns = _cell_of(self.x_edges, 1)
        for rows in np.split(_cell_of(self.y_edges, 1), range(BLOCK, int(self.y_edges[-1]), BLOCK)):
            yield self.cells[np.ix_(rows, columns)]

    def _expand(self, cells: np.ndarray, step: int = 1) -> np.ndarray:
        return cells[np.ix_(_cell_of(self.y_edges, step), _cell_of(self.x_edges, step))]


def _cell_of(edges: np.ndarray, step: int) -> np.ndarray:
    """The cell of every ``step``-th pixel."""
    return np.repeat(np.arange(len(edges) - 1), np.diff(edges))[::step]


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    return (values * 255).astype(np.uint8)
