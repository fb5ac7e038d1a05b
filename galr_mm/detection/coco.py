"""Proposals on disk: one COCO json, readable by pycocotools, from any detector of any framework."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log


class ImageProposals(NamedTuple):
    """Objects of one image, in descending order of score.

    Shapes:
        - bboxes: float32 (n, 4), xyxy in pixels of an image of size ``img_shape`` (height, width)
        - scores: float32 (n,)
        - labels: int64 (n,), positions in the list of classes
    """

    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    img_shape: tuple[int, int]


class ProposalSet:
    """Proposals of many images, looked up by file name.

    The file is a COCO json: ``images`` with file_name, width, height; ``categories``; ``annotations`` with image_id,
    category_id, bbox (xywh in pixels) and score. An annotation without a score counts as certain (1.0), so that a file
    of annotated boxes serves as well.

    Args:
        path: the json file.
        max_per_image: keep the best-scored so many of each image; all when None.
    """

    def __init__(self, path: str | Path, max_per_image: int | None = None) -> None:
        self.path = Path(path)
        if max_per_image is not None and max_per_image < 1:
            raise ValueError(f'max_per_image is {max_per_image}, expected 1 or more, or None for all')
        content = self._read()
        self.classes = tuple(c['name'] for c in content['categories'])
        label_of = {c['id']: label for label, c in enumerate(content['categories'])}
        boxes: dict[int, list[tuple]] = {image['id']: [] for image in content['images']}
        bad = 0
        for annotation in content['annotations']:
            try:
                x, y, w, h = (_number(v) for v in annotation['bbox'])
                row = (x, y, x + w, y + h, _number(annotation.get('score', 1.0)), label_of[annotation['category_id']])
                image = boxes[annotation['image_id']]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f'{self.path}: annotation {annotation} needs bbox=[x, y, w, h], and an image_id and category_id '
                    f'that are listed in the file ({error!r})'
                ) from error
            if np.isfinite(row).all():
                image.append(row)
            else:
                bad += 1
        if bad:
            print_log(f'{self.path}: {bad} objects with NaN or infinite numbers left out', 'current')
        self._images: dict[str, ImageProposals] = {}
        for image in content['images']:
            rows = np.asarray(sorted(boxes[image['id']], key=lambda row: -row[4]), dtype=np.float64).reshape(-1, 6)
            rows = rows[:max_per_image]
            self._images[image['file_name']] = ImageProposals(
                rows[:, :4].astype(np.float32),
                rows[:, 4].astype(np.float32),
                rows[:, 5].astype(np.int64),
                (int(image['height']), int(image['width'])),
            )

    def _read(self) -> dict:
        if not self.path.is_file():
            raise FileNotFoundError(
                f'no proposals at {self.path}; make them with '
                f'`python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out {self.path}`'
            )
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            for entry in content['images']:
                if min(_number(entry['width']), _number(entry['height'])) < 1:
                    raise ValueError(f'image {entry["file_name"]} has no size')
            for key, field in (('images', 'id'), ('images', 'file_name'), ('categories', 'id'), ('categories', 'name')):
                counts = Counter(entry[field] for entry in content[key])
                twice = [value for value, count in counts.items() if count > 1]
                if twice:
                    raise ValueError(f'{key} have the {field} {twice[0]!r} more than once')
            if not isinstance(content['annotations'], list):
                raise TypeError('annotations is no list')
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{self.path} is not a COCO json with images (id, file_name, width, height), categories (id, name) and '
                f'annotations: {error!r}'
            ) from error
        return content

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, file_name: str) -> bool:
        return file_name in self._images

    def get(self, file_name: str) -> ImageProposals | None:
        """Proposals of an image; None when the file says nothing of it."""
        return self._images.get(file_name)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{value!r} is no number')
    return float(value)
