from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from galr_mm.evaluation.sweep import SweepPoint
from galr_mm.utils.io import atomic_write


def draw_sweep(raw: float, points: Sequence[SweepPoint], path: str | Path) -> None:
    """Draw a sweep, the best setting marked, into a PNG.

    That of the multivariate rerank is a map of mR over both weights for each k, any other a line over its first
    parameter for each setting of the others.
    """
    figure = _surface(raw, points) if 'weights' in points[0].options else _lines(raw, points)
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=120)


def _lines(raw: float, points: Sequence[SweepPoint]) -> Figure:
    name, *others = points[0].options
    lines: dict[str, list[SweepPoint]] = {}
    for point in points:
        lines.setdefault(', '.join(f'{other}={point.options[other]}' for other in others), []).append(point)
    best = max(points, key=lambda point: point.mean_recall)
    figure = Figure(figsize=(6.4, 4.2), layout='constrained')
    axis = figure.subplots()
    for label, line in lines.items():
        axis.plot([p.options[name] for p in line], [p.mean_recall - raw for p in line], marker='.', label=label)
    axis.plot(best.options[name], best.mean_recall - raw, 'k*', markersize=12)
    axis.axhline(0, color='gray', linewidth=0.8)
    axis.set_xscale('log')
    ticks = sorted({point.options[name] for point in points})
    axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks], fontsize=7)
    axis.minorticks_off()
    axis.set_xlabel(name)
    axis.set_ylabel('points of mR')
    axis.set_title(f'change of mR from {raw:.2f}')
    if others:
        axis.legend()
    return figure


def _surface(raw: float, points: Sequence[SweepPoint]) -> Figure:
    ks = sorted({point.options['k'] for point in points})
    rows = sorted({point.options['weights'][0] for point in points})
    columns = sorted({point.options['weights'][2] for point in points})
    best = max(points, key=lambda point: point.mean_recall)
    values = {(p.options['k'], p.options['weights'][0], p.options['weights'][2]): p.mean_recall - raw for p in points}
    limit = max(abs(value) for value in values.values()) or 1.0
    across = min(3, len(ks))
    down = -(-len(ks) // across)
    figure = Figure(figsize=(4.4 * across + 1, 3.2 * down + 0.8), layout='constrained')
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[len(ks) :]:
        axis.set_axis_off()
    for axis, k in zip(axes, ks, strict=False):
        surface = np.array([[values[k, w_s, w_r] for w_r in columns] for w_s in rows])
        image = axis.imshow(surface, cmap='RdBu', vmin=-limit, vmax=limit, origin='lower', aspect='auto')
        axis.set_xticks(range(len(columns)), [f'{w:g}' for w in columns], fontsize=7)
        axis.set_yticks(range(len(rows)), [f'{w:g}' for w in rows], fontsize=7)
        axis.set_title(f'k = {k}: {surface.min():+.2f} to {surface.max():+.2f}', fontsize=9)
        if best.options['k'] == k:
            w_s, _, w_r = best.options['weights']
            axis.plot(columns.index(w_r), rows.index(w_s), 'k*', markersize=12)
    figure.supxlabel('reverse weight')
    figure.supylabel('significance weight')
    figure.suptitle(f'change of mR from {raw:.2f} (forward weight 1)')
    figure.colorbar(image, ax=list(figure.axes), label='points of mR')
    return figure
