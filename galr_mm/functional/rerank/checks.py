"""What the re-ranking functions take: arrays as tensors, and settings checked before long work starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from galr_mm.functional.arrays import Array, as_tensor
from galr_mm.functional.checks import check_whole, is_finite
from galr_mm.functional.recall import check_finite
from galr_mm.messages import shorten

REVERSES = ('ordinal', 'absolute')
SIGNIFICANCES = ('ratio', 'softmax', 'off')
TAILS = ('keep', 'zero')


def check_filler(filler: float | None) -> None:
    """Refuse a filler that no similarity can equal.

    Raises:
        ValueError: for what is not a finite number.
    """
    if filler is not None and not is_finite(filler):
        raise ValueError(f'filler is {shorten(filler)}, expected None or a finite number')


def prepare(similarity: Array, name: str = 'similarity') -> Tensor:
    """A similarity matrix as a tensor of floating-point numbers.

    Raises:
        ValueError: for a matrix that is not 2-d, does not hold numbers, or is empty, complex or sparse.
    """
    similarity = as_tensor(similarity, name)
    dense = similarity.layout == torch.strided
    if similarity.ndim != 2 or not similarity.numel() or similarity.is_complex() or not dense:
        raise ValueError(
            'expected a dense similarity matrix (queries, gallery) of real values, got shape '
            f'{tuple(similarity.shape)} of {similarity.dtype}'
        )
    if similarity.is_floating_point():
        return similarity
    return similarity.to(torch.float32 if similarity.element_size() <= 2 else torch.float64)


def prepare_reverse(reverse_similarity: Array | None, similarity: Tensor) -> Tensor | None:
    """The other direction as a tensor beside ``similarity`` (Q, N).

    Raises:
        ValueError: when it is not (N, Q).
    """
    if reverse_similarity is None:
        return None
    reverse_similarity = prepare(reverse_similarity, 'reverse_similarity').to(similarity.device)
    if reverse_similarity.shape != similarity.shape[::-1]:
        raise ValueError(
            f'expected reverse_similarity {tuple(similarity.shape[::-1])} beside similarity '
            f'{tuple(similarity.shape)}, got {tuple(reverse_similarity.shape)}'
        )
    return reverse_similarity


def check_options(
    k: int = 30,
    weights: Sequence[float] = (0.3, 1.0, 1.1),
    decay: float = 0.05,
    reverse: str = 'ordinal',
    reverse_top: int | None = None,
    significance: str = 'ratio',
    tail: str = 'keep',
) -> None:
    """Refuse options of the re-rankers that are unknown or give no scores.

    Raises:
        ValueError: says which and what was expected.
    """
    known = dict(
        reverse=(reverse, REVERSES),
        significance=(significance, SIGNIFICANCES),
        tail=(tail, TAILS),
    )
    for name, (value, values) in known.items():
        if value not in values:
            raise ValueError(f'{name} is {shorten(value)}, expected one of {values}')
    check_whole('k', k)
    if not is_finite(decay) or decay < 0:
        raise ValueError(f'decay is {shorten(decay)}, expected a finite number of 0 or more')
    given = tuple(weights) if isinstance(weights, Iterable) else ()
    if len(given) != 3 or not all(is_finite(weight) and abs(weight) < 1e30 for weight in given):
        raise ValueError(
            f'weights is {shorten(weights)}, expected three values below 1e30: significance, forward, reverse'
        )
    if reverse_top is not None and (not is_finite(reverse_top) or reverse_top < 0):
        raise ValueError(f'reverse_top is {shorten(reverse_top)}, expected None or a number of 0 or more')


def prepare_features(**feats: Array) -> list[Tensor]:
    """Check two sets of features and give them as tensors.

    Raises:
        ValueError: when one is not (n, D), is empty or holds NaN or infinity, or when the widths differ.
    """
    tensors = [as_tensor(feat, name) for name, feat in feats.items()]
    for name, feat in zip(feats, tensors, strict=True):
        if feat.ndim != 2 or not feat.numel() or feat.is_complex():
            raise ValueError(f'expected {name} (n, D) of real values, got shape {tuple(feat.shape)} of {feat.dtype}')
        check_finite(feat, f'values of {name}')
    first, second = tensors
    if first.shape[1] != second.shape[1] or first.device != second.device:
        raise ValueError(
            f'{" and ".join(feats)} differ in width or device: {first.shape[1]} on {first.device}, '
            f'{second.shape[1]} on {second.device}'
        )
    return tensors
