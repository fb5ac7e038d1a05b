from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from galr_mm.structures import Detections
from galr_mm.utils.io import atomic_write

if TYPE_CHECKING:  # drawing alone does not load the models
    from galr_mm.models.graph.drea import DREA

MERGED = '#aaaaaa'


def draw_sample(
    img: np.ndarray,
    detections: Detections,
    texts: Sequence[str],
    path: str | Path,
    classes: Sequence[str] = (),
) -> None:
    """Draw an image as the model sees it, with its boxes and captions, to a PNG; works without a display.

    Args:
        img: RGB uint8 (H, W, 3).
        detections: objects in its pixels.
        texts: captions.
        path: PNG to write.
        classes: names of the labels.
    """
    figure = Figure(figsize=(5, 5 + 0.35 * len(texts)), layout='constrained')
    axis = _show(figure.subplots(), img)
    labels = detections.labels.tolist()
    for box, label in zip(detections.boxes.numpy(), labels, strict=True):
        _box(axis, box, color(label))
    _legend(axis, sorted(set(labels)), classes)
    lines = '\n'.join(textwrap.shorten(text, 75) for text in texts)
    figure.supxlabel(lines, fontsize=8, parse_math=False)
    _save(figure, path)


def draw_graph(
    img: np.ndarray, detections: Detections, drea: DREA, path: str | Path, classes: Sequence[str] = (), title: str = ''
) -> None:
    """Draw what DREA makes of an image's proposals to a PNG; works without a display.

    Left: all proposals dashed in gray, the nodes in the color of their class with a frame as thick as their salience,
    how many proposals were merged (x3), and edges as strong as the adjacency. Right: the adjacency itself, colored by
    its edges: self loops, which can be far larger, end at the top of the scale.

    Args:
        img: RGB uint8 (H, W, 3).
        detections: the proposals, in its pixels.
        drea: the module.
        path: PNG to write.
        classes: names of the labels.
        title: printed above.
    """
    from galr_mm.models.graph.drea import salience

    height, width = img.shape[:2]
    proposals = detections.to_instances()
    objects = drea.nodes([proposals], [(height, width)])
    kept = int(drea.objects([proposals], [(height, width)]).mask.sum())
    graph = drea([proposals], [(height, width)])
    count = int(graph.mask.sum())
    weight = salience(objects, drea.enhancement or 'area')[0, :count].numpy()
    boxes = objects.boxes[0, :count].numpy() * [width, height, width, height]
    labels = objects.labels[0, :count].tolist()
    merged = objects.num_merged[0, :count].tolist()
    adj = graph.adj[0, :count, :count].numpy()
    figure = Figure(figsize=(10, 5.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    _show(left, img)
    for box in detections.boxes.numpy():
        _box(left, box, MERGED, 0.7, linestyle='--')
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    off = adj - np.diag(np.diag(adj))
    strongest = off.max(initial=0) or 1.0
    for i in range(count):
        for j in range(i):
            if off[i, j] > 0.05 * strongest:
                left.plot(*centers[[i, j]].T, color='white', linewidth=2.5 * off[i, j] / strongest, alpha=0.8)
    for index, (box, label, fraction, members) in enumerate(zip(boxes, labels, weight, merged, strict=True)):
        _box(left, box, color(label), 1 + 3 * fraction)
        text = f'{index}' + (f' x{members:.0f}' if members > 1 else '')
        left.text(
            box[0], box[1], text, fontsize=6, color='white', va='top', zorder=5,  # above edges and other boxes
            bbox=dict(facecolor=color(label), edgecolor='none', pad=0.5),
        )  # fmt: skip
    _legend(left, sorted(set(labels)), classes)
    left.set_title(
        f'{len(detections)} proposals, {kept} after merging, {count} nodes\n'
        'frame: salience, line: strength of the edge, x3: merged from three',
        fontsize=8,
    )
    top = strongest if count > 1 else 1.0
    image = right.imshow(adj if count else np.zeros((1, 1)), cmap='viridis', vmin=0, vmax=top)
    right.set_title('adjacency between the nodes', fontsize=8)
    right.set_xticks(range(count))
    right.set_yticks(range(count))
    right.tick_params(labelsize=7)
    figure.colorbar(image, ax=right, shrink=0.8, extend='max' if adj.max(initial=0) > top else 'neither')
    figure.suptitle(title, fontsize=9, parse_math=False)
    _save(figure, path)


def color(label: int) -> tuple[float, ...]:
    """Color of a class."""
    return colormaps['tab20'](label % 20)


def _show(axis: Axes, img: np.ndarray) -> Axes:
    axis.imshow(img)
    axis.set_xlim(-0.5, img.shape[1] - 0.5)
    axis.set_ylim(img.shape[0] - 0.5, -0.5)
    axis.set_axis_off()
    return axis


def _box(axis: Axes, box: np.ndarray, edge: object, linewidth: float = 1.5, linestyle: str = '-') -> None:
    x1, y1, x2, y2 = box
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=linewidth, linestyle=linestyle)
    )


def _legend(axis: Axes, labels: Sequence[int], classes: Sequence[str]) -> None:
    if not labels:
        return
    handles = [
        Rectangle((0, 0), 1, 1, color=color(label), label=classes[label] if label < len(classes) else str(label))
        for label in labels
    ]
    axis.legend(handles=handles, fontsize=7, loc='upper center', bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format='png', dpi=110)
