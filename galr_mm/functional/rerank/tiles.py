"""Parts of a similarity matrix, cut from a given matrix or made from features, that stay near the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from galr_mm.functional.recall import check_finite, is_finite

TILE = 1 << 19  # values in a tile of a given matrix: 2 MiB in float32, 4 in float64, near a processor's own cache
FEATURE_TILE = 1 << 21  # values in a tile that is made from features
WIDTH = 1 << 12  # its columns


def require_finite(tile: Tensor, whole: Tensor | None = None, name: str = 'similarities') -> None:
    """Raise ValueError for a tile with NaN or infinity; counted in the ``whole`` matrix where there is one."""
    if not is_finite(tile):
        check_finite(tile if whole is None else whole, name)


class MatrixTiles:
    """Whole rows of a given matrix (Q, N) in float32 or wider; the matrix is neither copied nor changed.

    Iterating gives slices of rows and of columns and the tile: contiguous or, of a transposed matrix, the transpose of
    a contiguous one.

    Args:
        matrix: (Q, N).
        filler: value of pairs that were not scored.
        name: of the matrix, for a message.

    Attributes:
        filler: as it is written in this matrix.
    """

    def __init__(self, matrix: Tensor, filler: float | None = None, name: str = 'similarity') -> None:
        self.matrix = matrix
        self.filler = None if filler is None else torch.tensor(filler, dtype=matrix.dtype).item()
        self.name = name
        self.shape = (len(matrix), matrix.shape[1])
        self.dtype = torch.promote_types(matrix.dtype, torch.float32)
        self.device = matrix.device

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        size, columns = self.matrix.shape
        for rows in slices(size, max(1, TILE // columns)):
            tile = self.matrix[rows].to(self.dtype)
            yield rows, slice(0, columns), tile.t().contiguous().t() if tile.stride(0) == 1 else tile.contiguous()

    def check(self, tile: Tensor) -> None:
        """Refuse a tile with NaN, infinity or a value below the filler.

        Raises:
            ValueError: names the first.
        """
        name = 'similarities' if self.name == 'similarity' else f'similarities of {self.name}'
        require_finite(tile, self.matrix, name)
        if self.filler is not None and tile.min() < self.filler:
            raise ValueError(
                f'filler is {self.filler}, but a pair that was scored has {tile.min().item()} in {self.name}, which is '
                'lower'
            )


class FeatureTiles:
    """Products of features (Q, D) and (N, D), made anew in each pass; two passes give the same values.

    Iterating gives slices of rows and of columns, rows outermost, and the tile.

    Attributes:
        filler: None, since all pairs are scored.
        surely_finite: the features are too small for a product that overflows.
    """

    filler = None

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        self.queries, self.gallery = queries, gallery
        self.shape = (len(queries), len(gallery))
        self.dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
        self.device = queries.device
        self.width = min(WIDTH, len(gallery))
        self.height = max(1, FEATURE_TILE // self.width)
        # no sum of D products can be larger
        largest = [max(map(abs, torch.stack(feats.aminmax()).tolist())) for feats in (queries, gallery)]
        self.surely_finite = queries.shape[1] * largest[0] * largest[1] < torch.finfo(self.dtype).max / 2

    def check(self, tile: Tensor) -> None:
        """Refuse a tile with NaN or infinity.

        Raises:
            ValueError: says how many and where the first is.
        """
        require_finite(tile)

    def __len__(self) -> int:
        return -(-len(self.queries) // self.height) * -(-len(self.gallery) // self.width)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows in slices(len(self.queries), self.height):
            queries = self.queries[rows].to(self.dtype)
            for part in slices(len(self.gallery), self.width):
                yield rows, part, queries @ self.gallery[part].to(self.dtype).t()


def slices(size: int, step: int) -> Iterator[slice]:
    """Slices of ``step``, the last maybe shorter, that cover ``size``."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
