"""What the functions of this package take as an array: tensors, numpy arrays, data frames, nested lists."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from galr_mm.messages import clip, shorten


class SupportsArray(Protocol):
    """What numpy makes an array of: a data frame, a series, an array of another library."""

    def __array__(self) -> np.ndarray:
        """Its values."""


Array: TypeAlias = Tensor | np.ndarray | SupportsArray | Sequence


def as_tensor(array: Array, name: str = 'array') -> Tensor:
    """A tensor that shares the memory of an array where it can, of read-only ones too: nothing here writes to it.

    Args:
        array: a tensor, a numpy array, anything that numpy makes an array of, or nested lists of numbers.
        name: for the message.

    Raises:
        ValueError: when it does not hold numbers, or rows of different lengths, or is a tensor that is sparse,
            quantized or of 8-bit floating point, with which torch does not compute; says what it is.

    >>> as_tensor([[1.0, 0.5], [0.0, 1.0]]).shape
    torch.Size([2, 2])
    """
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_quantized or (array.is_floating_point() and array.itemsize < 2):
            raise ValueError(
                f'expected {name} dense, of bool, whole numbers or at least 16-bit floating point, got '
                f'{_described(array)} of {array.dtype}, {array.layout}'
            )
        return array.detach()
    try:
        if isinstance(array, (list, tuple)) and any(isinstance(row, Tensor) for row in array):
            return torch.stack([as_tensor(row, name) for row in array])
        values = np.asarray(array)
        if isinstance(array, np.ma.MaskedArray):  # what is masked has no value
            values = np.ma.filled(array.astype(np.float64), np.nan)
        if values.dtype == object:  # columns of several types, such as a data frame of whole numbers and fractions
            values = np.asarray(values.tolist())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f'expected {name} of numbers, got {_described(array)}: {clip(error, 200)}') from None
    if values.dtype.kind not in 'biufc':
        raise ValueError(f'expected {name} of numbers, got {_described(array)} of {values.dtype}')
    if values.dtype == np.longdouble and values.dtype.itemsize > 8:  # torch has no such type
        values = values.astype(np.float64)
    values = values.astype(values.dtype.newbyteorder('='), copy=False)
    if any(step < 0 for step in values.strides):
        values = np.ascontiguousarray(values)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
        return torch.as_tensor(values)


def check_labels(
    first: Array, second: Array, transposed: bool = False, names: str = 'similarity and positives'
) -> None:
    """Refuse two data frames of one shape whose rows or columns are labeled otherwise, such as in another order.

    Args:
        first: an array; labels are compared where both arrays have an ``index`` and ``columns``.
        second: the other.
        transposed: compare the rows of one with the columns of the other.
        names: of the two, for the message.

    Raises:
        ValueError: names the first label that differs.
    """
    if not all(hasattr(type(array), 'columns') and hasattr(type(array), 'index') for array in (first, second)):
        return
    axes = ('index', 'columns')
    for axis, other in zip(axes, axes[::-1] if transposed else axes, strict=True):
        pairs = zip(getattr(first, axis), getattr(second, other), strict=False)
        for place, (mine, theirs) in enumerate(pairs):
            if mine != theirs and not (mine != mine and theirs != theirs):  # NaN is no other label than NaN
                raise ValueError(
                    f'{names} have different labels: {axis} {place} is {shorten(mine)} in the one, {other} {place} '
                    f'is {shorten(theirs)} in the other; bring them in one order'
                )


def as_positives(positives: Array, shape: Sequence[int] | None = None) -> Tensor:
    """Positives as a bool tensor; 0 and 1 will do.

    Args:
        positives: bool, true where the gallery item of a column is relevant to the query of a row.
        shape: what it must have; any matrix when None.

    Raises:
        ValueError: for another shape, or other values.

    >>> as_positives([[1, 0], [0, 1]])
    tensor([[ True, False],
            [False,  True]])
    """
    tensor = as_tensor(positives, 'positives')
    if tensor.ndim != 2 or (shape is not None and tuple(tensor.shape) != tuple(shape)):
        expected = '(queries, gallery)' if shape is None else tuple(shape)
        raise ValueError(f'expected positives of shape {expected}, got {tuple(tensor.shape)}')
    if tensor.dtype != torch.bool:
        if not ((tensor == 0) | (tensor == 1)).all():
            raise ValueError(f'expected positives that are true or false (1 or 0), got values of {tensor.dtype}')
        tensor = tensor.bool()
    return tensor


def as_ranks(ranks: Array) -> Tensor:
    """Ranks as an int64 tensor (Q,).

    Raises:
        ValueError: for what is not a list of whole numbers of -1 or more.

    >>> as_ranks([0, 3, -1])
    tensor([ 0,  3, -1])
    """
    tensor = as_tensor(ranks, 'ranks')
    if not tensor.numel() and tensor.ndim == 1:
        return tensor.long()
    if tensor.ndim != 1 or tensor.is_complex() or tensor.dtype == torch.bool or (tensor != tensor.round()).any():
        raise ValueError(f'expected ranks (queries,) that are whole numbers, got {_described(ranks)}')
    if tensor.min() < -1:
        raise ValueError(f'expected ranks of 0 or more, or -1 for queries without a positive, got {int(tensor.min())}')
    return tensor.long()


def _described(array: object) -> str:
    shape = getattr(array, 'shape', None)
    if isinstance(shape, (tuple, torch.Size)):
        return f'{type(array).__name__} {tuple(shape)}'
    return f'{type(array).__name__} {shorten(array)}'
