from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from galr_mm.functional import Interval
from galr_mm.utils.io import atomic_write


def draw_curves(recalls: Mapping[str, Sequence[Mapping[int, float]]], path: str | Path) -> None:
    """Draw learning curves to a PNG: the mean over seeds, and a band from the lowest seed to the highest.

    Args:
        recalls: by label, for each seed the mR by epoch.
        path: PNG to write.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axis = figure.subplots()
    for label, seeds in recalls.items():
        epochs = sorted(set.intersection(*(set(curve) for curve in seeds)))
        values = np.array([[curve[epoch] for epoch in epochs] for curve in seeds])  # seeds, epochs
        (line,) = axis.plot(epochs, values.mean(0), label=f'{label} ({len(seeds)})', marker='.')
        axis.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel='epoch', ylabel='val mR, mean and range over (seeds)')
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def draw_differences(rows: Mapping[str, Mapping[str, Interval]], path: str | Path, base: str) -> None:
    """Draw differences to a base row with their intervals to a PNG, one line a variant and split.

    Args:
        rows: by label and split.
        path: PNG to write.
        base: label of the base row.
    """
    figure = Figure(figsize=(7.5, 1.2 + 0.5 * len(rows)), layout='constrained')
    axis = figure.subplots()
    splits = list(dict.fromkeys(split for row in rows.values() for split in row))
    for place, split in enumerate(splits):
        points = [(i, row[split]) for i, row in enumerate(rows.values()) if split in row]
        values = np.array([[i, *interval] for i, interval in points])  # place, difference, low, high
        errors = np.abs(values[:, 2:].T - values[:, 1])
        height = values[:, 0] + 0.2 * (place - (len(splits) - 1) / 2)
        axis.errorbar(values[:, 1], height, xerr=errors, fmt='o', capsize=3, label=split)
    axis.axvline(0, color='black', linewidth=0.8)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=8, parse_math=False)
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f'difference of mR to "{base}", 95 % interval over images and seeds')
    axis.grid(alpha=0.3, axis='x')
    axis.legend(fontsize=8)
    _save(figure, path)


def draw_classes(values: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draw the mean recall of each class to a PNG, best of the first row on top.

    Args:
        values: by label and class.
        path: PNG to write.
    """
    first = next(iter(values.values()))
    names = sorted(first, key=lambda name: first[name])
    figure = Figure(figsize=(7, 1 + 0.3 * len(names)), layout='constrained')
    axis = figure.subplots()
    for label, row in values.items():
        axis.plot([row[name] for name in names], range(len(names)), 'o', label=label)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(xlabel='mean recall of the queries of a class, percent')
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=120)
