from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Interval(NamedTuple):
    """A difference in percent with the ends of its interval.

    >>> Interval(1.5, low=-0.5, high=3.5).difference
    1.5
    """

    difference: float
    low: float
    high: float


def paired_bootstrap(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    positives: Tensor,
    topk: Sequence[int] = (1, 5, 10),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """What a re-ranking changes in R@k and mR, with percentile intervals of the paired bootstrap (Efron, 1979).

    Images are drawn with replacement, each with all its captions, since the captions of an image are not independent
    queries; both sides are measured on the same draw, and the galleries stay whole. An interval says what other
    images of the same kind would do, not what another training would.

    Args:
        before: 0-based ranks of the best positive, 'i2t' (I,) and 't2i' (T,), -1 for queries without one.
        after: the same of the other side.
        positives: bool (I, T); a caption goes with the first image it describes.
        topk: the values of k.
        resamples: draws.
        seed: of the draws.

    Returns:
        Differences with their 95 % intervals, by the names of :class:`galr_mm.RecallAtK`.

    Raises:
        ValueError: when a direction has no query with a positive, both sides differ in their queries, or topk or
            resamples make no sense.

    Example:
        >>> positives = torch.eye(4).bool()
        >>> before = dict(i2t=torch.tensor([0, 1, 2, 3]), t2i=torch.tensor([0, 0, 1, 1]))
        >>> after = dict(i2t=torch.tensor([0, 0, 2, 3]), t2i=torch.tensor([0, 0, 1, 1]))
        >>> paired_bootstrap(before, after, positives, topk=(1,), resamples=200)['i2t/R@1'].difference
        25.0
    """
    if not topk or not isinstance(resamples, int) or not 1 <= resamples <= 100_000:
        raise ValueError(f'topk is {topk} and resamples {resamples!r}, expected values of k, and 1 to 100,000 draws')
    for direction in ('i2t', 't2i'):
        first, second = before[direction], after[direction]
        if first.shape != second.shape or not torch.equal(first < 0, second < 0):
            raise ValueError(f'before and after differ in the {direction} queries that have a positive')
        if not (first >= 0).any():
            raise ValueError(f'{direction} has no query with a positive')
    images = len(positives)
    owner = dict(i2t=torch.arange(images), t2i=positives.cpu().int().argmax(dim=0))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    weight = torch.zeros(resamples, images, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn, dtype=torch.float64)
    )
    differences, changes = {}, {}
    for direction in ('i2t', 't2i'):
        first, second = before[direction].cpu(), after[direction].cpu()
        counts = (first >= 0).double()
        queries = torch.zeros(images, dtype=torch.float64).index_add_(0, owner[direction], counts)
        for k in topk:
            change = ((second < k).double() - (first < k).double()) * counts
            gained = torch.zeros(images, dtype=torch.float64).index_add_(0, owner[direction], change)
            name = f'{direction}/R@{k}'
            differences[name] = 100 * gained.sum() / queries.sum()
            changes[name] = 100 * (weight @ gained) / (weight @ queries)  # NaN where no query was drawn
    differences['mR'] = torch.stack(list(differences.values())).mean()
    changes['mR'] = torch.stack(list(changes.values())).mean(dim=0)
    return {
        name: Interval(difference.item(), *np.nanquantile(changes[name], [0.025, 0.975]).tolist())
        for name, difference in differences.items()
    }
