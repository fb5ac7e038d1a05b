"""Proposals on disk: one COCO json, readable by pycocotools, from any detector of any framework."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from galr_mm.detection.checks import (
    check_boxes,
    check_scores,
    look_up,
    number,
    read_box,
    reason_to_drop,
    reason_to_ignore,
)
from galr_mm.imagery.files import loose_key, slash_key
from galr_mm.messages import clip, reason, shorten
from galr_mm.structures import Detections
from galr_mm.utils.io import read_json, write_text


class CocoContent(NamedTuple):
    """What a COCO json says: names of the classes, objects per file name, and how many were left out for a reason."""

    classes: tuple[str, ...]
    detections: dict[str, Detections]
    dropped: Counter[str]


def parse_coco(content: Mapping[str, Any], source: str | Path, kind: str = 'annotation') -> CocoContent:
    """Read the content of a COCO json: ``images``, ``categories`` and ``annotations``.

    An annotation without a score counts as certain (1.0), so that a file of annotated boxes serves as well. Crowds and
    what is to be ignored, boxes or scores with NaN or infinite values, and boxes that are empty or outside the image
    are left out; how many is logged, and so is what is suspicious (see :mod:`galr_mm.detection.checks`).

    Args:
        content: images with file_name, width, height; categories; annotations with image_id, category_id, bbox (xywh
            in pixels), and score, from 0 to 1.
        source: named by errors.
        kind: what errors call an annotation, before its index.

    Raises:
        ValueError: when a field is missing, of another kind, or names what is not listed, when scores are not from 0 to
            1, or boxes not xywh in pixels of their images.
    """
    try:
        for index, entry in enumerate(content['images']):
            if not all(1 <= number(entry[side]) < math.inf and entry[side] % 1 == 0 for side in ('width', 'height')):
                raise ValueError(f'image {index}, {shorten(entry["file_name"])}, has no size in whole pixels')
        for key, field in (('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')):
            counts = Counter(entry[field] for entry in content[key])
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f'{key} have the {field} {shorten(twice[0])} more than once')
            if field in ('file_name', 'name') and not all(isinstance(value, str) for value in counts):
                raise TypeError(f'a {field} of {key} is not a text')
        spelled: dict[str, str] = {}
        for entry in content['images']:
            name = entry['file_name']
            if (other := spelled.setdefault(slash_key(name), name)) != name:
                raise ValueError(f'images have the file_name {shorten(other)} and {shorten(name)}, which are one file')
        if not isinstance(content['annotations'], list):
            raise TypeError('annotations is not a list')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{source} is not a COCO json with images (id, file_name, width, height), categories (id, name) and '
            f'annotations: {reason(error)}'
        ) from error
    label_of = {category['id']: label for label, category in enumerate(content['categories'])}
    sizes = {image['id']: (int(image['height']), int(image['width'])) for image in content['images']}
    rows: list[list[float]] = []  # x, y, width, height, score, label, height and width of the image
    owners: list[Hashable] = []
    indices: list[int] = []
    dropped: Counter[str] = Counter()
    for index, annotation in enumerate(content['annotations']):
        try:
            why = reason_to_ignore(annotation)
            if why is None:
                label, size = look_up(label_of, annotation, 'category_id'), look_up(sizes, annotation, 'image_id')
                row = [*read_box(annotation), number(annotation.get('score', 1.0)), label, *size]
                why = reason_to_drop(row)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{source}: {kind} {index} is {shorten(annotation)}: {clip(error)}; it needs bbox=[x, y, w, h], and an '
                'image_id and category_id that are listed in the file'
            ) from error
        if why is not None:
            dropped[why] += 1
            continue
        rows.append(row)
        owners.append(annotation['image_id'])
        indices.append(index)
    table = np.array(rows, np.float64).reshape(-1, 8)
    try:
        check_scores(table[:, 4], np.array(indices), kind)
        visible, notes = check_boxes(table[:, :4], table[:, [7, 6]], np.array(indices), kind)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    if not visible.all():
        dropped['outside their image'] += int((~visible).sum())
    for note in [*([describe_dropped(dropped)] if dropped else []), *notes]:
        print_log(f'{source}: {note}', 'current', logging.WARNING)
    of_image: dict[Hashable, list[int]] = {image_id: [] for image_id in sizes}
    for position in np.flatnonzero(visible):
        of_image[owners[position]].append(position)
    return CocoContent(
        tuple(category['name'] for category in content['categories']),
        {
            image['file_name']: Detections.from_rows(table[of_image[image['id']], :6], sizes[image['id']])
            for image in content['images']
        },
        dropped,
    )


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """How many objects were left out, and why."""
    reasons = ', '.join(f'{count} {reason}' for reason, count in dropped.items() if count)
    return f'{sum(dropped.values())} objects left out{f": {reasons}" if reasons else ""}'


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

    Raises:
        ValueError: when a label has no class.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, (file_name, found) in enumerate(detections, start=1):
        height, width = found.image_size
        if len(found) and int(found.labels.max()) >= len(classes):
            raise ValueError(f'{file_name}: label {int(found.labels.max())}, but there are {len(classes)} classes')
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
    r"""Proposals of many images, looked up by file name; the file is a COCO json, see :func:`parse_coco`.

    It may write a name as a list of images may (see :class:`galr_mm.imagery.files.ImageFolder`): with another file type
    or none, or as Windows does (``sub\1.jpg``). Exactly the name comes first.

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
        self.classes, found, self.dropped = parse_coco(read_json(self.path, 'a COCO json'), self.path)
        self._detections = {slash_key(name): detections.top(max_per_image) for name, detections in found.items()}
        self._by_loose: dict[str, list[str]] = {}
        for key in self._detections:
            self._by_loose.setdefault(loose_key(key), []).append(key)

    def __len__(self) -> int:
        return len(self._detections)

    def __contains__(self, file_name: str) -> bool:
        return self._find(file_name) is not None

    def get(self, file_name: str) -> Detections | None:
        """Objects of an image; None when the file says nothing of it.

        Raises:
            ValueError: when more than one image of the file could be it.
        """
        key = self._find(file_name)
        return None if key is None else self._detections[key]

    def absent(self, file_names: Iterable[str]) -> list[str]:
        """The images that the file says nothing of.

        Raises:
            ValueError: when more than one image of the file could be one, or one of the file is two of these.
        """
        owners: dict[str, str] = {}
        missing = []
        for name in file_names:
            key = self._find(name)
            if key is None:
                missing.append(name)
            elif (other := owners.setdefault(key, name)) != name:
                raise ValueError(f'{self.path}: its objects of {key} are those of more than one image, {other}, {name}')
        return missing

    def _find(self, file_name: str) -> str | None:
        """The key of an image."""
        key = slash_key(file_name)
        if key in self._detections:
            return key
        found = self._by_loose.get(loose_key(key), [])
        if len(found) > 1:
            raise ValueError(f'{self.path} has no {file_name}, and {", ".join(found[:5])} could each be it')
        return found[0] if found else None
