from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from galr_mm.evaluation.sweep import SweepPoint
from galr_mm.utils.io import atomic_write


def draw_sweep(raw: float, points: Sequence[SweepPoint], path: str | Path) -> None:
    """Draw the surface of a sweep: a map of mR over both weights for each k, the best setting marked; writes a PNG."""
    ks = sorted({point.k for point in points})
    rows = sorted({point.weights[0] for point in points})
    columns = sorted({point.weights[2] for point in points})
    best = max(points, key=lambda point: point.mean_recall)
    values = {(p.k, p.weights[0], p.weights[2]): p.mean_recall - raw for p in points}
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
        if best.k == k:
            axis.plot(columns.index(best.weights[2]), rows.index(best.weights[0]), 'k*', markersize=12)
    figure.supxlabel('reverse weight')
    figure.supylabel('significance weight')
    figure.suptitle(f'change of mR from {raw:.2f} (forward weight 1)')
    figure.colorbar(image, ax=list(figure.axes), label='points of mR')
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=120)
