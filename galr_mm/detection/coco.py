"""Proposals on disk: one COCO json, readable by pycocotools, from any detector of any framework."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from galr_mm.messages import reason, shorten
from galr_mm.structures import Detections
from galr_mm.utils.io import read_json, write_text


class CocoContent(NamedTuple):
    """What a COCO json says: names of the classes, and per file name the objects."""

    classes: tuple[str, ...]
    detections: dict[str, Detections]


def parse_coco(content: Mapping[str, Any], source: str | Path) -> CocoContent:
    """Read the content of a COCO json: ``images``, ``categories`` and ``annotations``.

    An annotation without a score counts as certain (1.0), so that a file of annotated boxes serves as well. Boxes with
    NaN or infinite values, and boxes that are empty or outside the image, are left out; how many is logged.

    Args:
        content: images with file_name, width, height; categories; annotations with image_id, category_id, bbox (xywh
            in pixels) and score.
        source: named by errors.

    Raises:
        ValueError: when a field is missing, of another kind, or names what is not listed.
    """
    try:
        for entry in content['images']:
            if not all(1 <= _number(entry[side]) < math.inf for side in ('width', 'height')):
                raise ValueError(f'image {shorten(entry["file_name"])} has no size')
        for key, field in (('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')):
            counts = Counter(entry[field] for entry in content[key])
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f'{key} have the {field} {shorten(twice[0])} more than once')
        if not isinstance(content['annotations'], list):
            raise TypeError('annotations is not a list')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{source} is not a COCO json with images (id, file_name, width, height), categories (id, name) and '
            f'annotations: {reason(error)}'
        ) from error
    label_of = {category['id']: label for label, category in enumerate(content['categories'])}
    sizes = {image['id']: (int(image['height']), int(image['width'])) for image in content['images']}
    rows: dict[object, list[list[float]]] = {image_id: [] for image_id in sizes}
    bad = 0
    for annotation in content['annotations']:
        try:
            x, y, w, h = (_number(value) for value in annotation['bbox'])
            row = [x, y, w, h, _number(annotation.get('score', 1.0)), label_of[annotation['category_id']]]
            (height, width), image_rows = sizes[annotation['image_id']], rows[annotation['image_id']]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{source}: annotation {shorten(annotation)} needs bbox=[x, y, w, h], and an image_id and category_id '
                f'that are listed in the file ({reason(error)})'
            ) from error
        visible = min(w, h) > 0 and min(x + w, y + h) > 0 and x < width and y < height
        if all(map(math.isfinite, row)) and visible:
            image_rows.append(row)
        else:
            bad += 1
    if bad:
        print_log(
            f'{source}: {bad} objects with NaN, or with a box that is empty or outside its image, left out', 'current'
        )
    return CocoContent(
        tuple(category['name'] for category in content['categories']),
        {i['file_name']: Detections.from_rows(rows[i['id']], sizes[i['id']]) for i in content['images']},
    )


def write_coco(
    path: str | Path,
    detections: Iterable[tuple[str, Detections]],
    classes: Sequence[str],
    info: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Write the objects of images as one COCO json, complete or not at all; ids count from 1.

    Args:
        path: the file.
        detections: file name and objects of each image.
        classes: names of the labels.
        info: kept in the file as it is.

    Returns:
        What was written.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, (file_name, found) in enumerate(detections, start=1):
        height, width = found.image_size
        images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        annotations += found.to_coco(image_id, first_id=len(annotations) + 1)
    content = dict(
        info=dict(info or {}),
        images=images,
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(classes)],
        annotations=annotations,
    )
    write_text(path, json.dumps(content))
    return content


class ProposalSet:
    """Proposals of many images, looked up by file name; the file is a COCO json, see :func:`parse_coco`.

    Args:
        path: the json file.
        max_per_image: keep the N highest-scoring objects of each image; all when None.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a COCO json, or ``max_per_image`` is below 1.
    """

    def __init__(self, path: str | Path, max_per_image: int | None = None) -> None:
        self.path = Path(path)
        if max_per_image is not None and max_per_image < 1:
            raise ValueError(f'max_per_image is {max_per_image}, expected 1 or more, or None for all')
        if not self.path.is_file():
            raise FileNotFoundError(
                f'no proposals at {path}; make them with '
                f'`python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out {path}`'
            )
        self.classes, found = parse_coco(read_json(self.path, 'a COCO json'), self.path)
        self._detections = {name: detections.top(max_per_image) for name, detections in found.items()}

    def __len__(self) -> int:
        return len(self._detections)

    def __contains__(self, file_name: str) -> bool:
        return file_name in self._detections

    def get(self, file_name: str) -> Detections | None:
        """Objects of an image; None when the file says nothing of it."""
        return self._detections.get(file_name)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{shorten(value)} is not a number')
    return float(value)
