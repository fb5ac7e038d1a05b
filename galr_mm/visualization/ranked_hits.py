from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galr_mm.imagery import read_image
from galr_mm.utils.io import atomic_write

POSITIVE, NEGATIVE, BOX = '#1a9641', '#bbbbbb', '#ffd92f'
SURE = 0.3  # score of an object whose box is drawn


class Hit(NamedTuple):
    """One image of a ranked list; ``boxes`` (n, 4) xyxy relative to its width and height, or None.

    ``rank``, from 1, is its place in the list where that is not its place on the sheet; it then has no ``score``.
    """

    img_path: str
    score: float | None
    positive: bool
    boxes: np.ndarray | None = None
    rank: int | None = None


def draw_ranked_hits(rows: Sequence[tuple[str, Sequence[Hit]]], path: str | Path, title: str = '') -> None:
    """Draw a sheet to a PNG: a caption a row, its best images from left to right, positives framed in green.

    A hit with a ``rank`` stands apart from those before it, by a dashed frame. Works without a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    topk = max(len(hits) for _, hits in rows)
    figure = Figure(figsize=(2.1 * (topk + 1.3), 2.25 * len(rows) + 0.9), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), topk + 1, squeeze=False, width_ratios=[1.3] + [1] * topk)
    for (caption, hits), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        line[0].text(
            0, 0.5, textwrap.fill(caption, 26), va='center', fontsize=9, transform=line[0].transAxes, parse_math=False
        )
        for rank, (hit, axis) in enumerate(zip(hits, line[1:], strict=False), start=1):
            img = read_image(hit.img_path)[..., ::-1]
            axis.imshow(img)
            size = np.tile(img.shape[1::-1], 2)
            for x1, y1, x2, y2 in hit.boxes * size if hit.boxes is not None else ():
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=BOX, linewidth=1))
            axis.spines[:].set(
                visible=True,
                color=POSITIVE if hit.positive else NEGATIVE,
                linewidth=4 if hit.positive else 1,
                linestyle='-' if hit.rank is None else (0, (2, 2)),
            )
            mark = '  positive' if hit.positive else ''
            mark += '' if hit.rank is None else ', not among the best'
            score = '' if hit.score is None else f'  {hit.score:.3f}'
            axis.set_title(f'{hit.rank or rank}.{score}{mark}', fontsize=8, color=POSITIVE if hit.positive else 'black')
    figure.suptitle(f'{title}: captions and their best images, positives framed in green'.lstrip(': '), fontsize=10)
    figure.supxlabel(_legend([hit for _, hits in rows for hit in hits]), fontsize=8)
    with atomic_write(path) as part:
        canvas.print_figure(part, format='png', dpi=90)


def _legend(hits: Sequence[Hit]) -> str:
    lines = []
    if any(hit.rank is not None for hit in hits):
        lines.append('dashed: the best positive of a caption, with its rank, where it is not among those shown')
    if any(hit.boxes is not None and len(hit.boxes) for hit in hits):
        lines.append(f'yellow: proposals with a score of {SURE} or more, the objects of the local branch')
    return '\n'.join(lines)
