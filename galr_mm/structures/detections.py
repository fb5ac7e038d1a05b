from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # structures stay light: mmengine is imported where it is used
    from collections.abc import Sequence

    from mmengine.structures import InstanceData
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, init=False)
class Detections:
    """Objects that a detector found in one image, in descending order of score; equal scores keep their order.

    Args:
        boxes: xyxy in pixels of an image of ``image_size``.
        scores: confidences.
        labels: positions in the list of the detector's classes.
        image_size: (height, width) in pixels.

    Shapes:
        - boxes: float32 (n, 4)
        - scores: float32 (n,)
        - labels: int64 (n,)

    Raises:
        TypeError: when an argument holds something else than numbers.
        ValueError: when the shapes do not fit each other, a score is not finite, a label is not a whole number from 0
            on, or the image has no size in whole pixels.

    Example:
        >>> found = Detections([[0, 0, 10, 20], [5, 5, 9, 9]], [0.2, 0.9], [3, 1], image_size=(40, 50))
        >>> found.labels.tolist(), found.scaled_to((80, 50)).boxes.tolist()
        ([1, 3], [[5.0, 10.0, 9.0, 18.0], [0.0, 0.0, 10.0, 40.0]])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]

    def __init__(
        self,
        boxes: Tensor | ArrayLike,
        scores: Tensor | ArrayLike,
        labels: Tensor | ArrayLike,
        image_size: Sequence[int],
    ) -> None:
        boxes, scores = _tensor(boxes, 'boxes').float(), _tensor(scores, 'scores').float()
        labels = _tensor(labels, 'labels')
        boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
        n = len(scores) if scores.ndim == 1 else -1
        if boxes.shape != (n, 4) or labels.shape != (n,):
            raise ValueError(
                'expected boxes (n, 4), scores (n,) and labels (n,), got '
                f'{tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(labels.shape)}'
            )
        for name, values, good, expected in (
            ('scores', scores, scores.isfinite(), 'finite numbers'),
            ('labels', labels, (labels >= 0) & (labels.long() == labels), 'whole numbers from 0 on'),
        ):
            if not good.all():
                raise ValueError(f'{name} hold {values[~good][0].item()}, expected {expected}')
        labels = labels.long()
        height, width = (int(side) for side in image_size)
        if min(height, width) < 1 or (height, width) != tuple(image_size):
            raise ValueError(
                f'image_size is {tuple(image_size)}, expected a height and a width in whole pixels, 1 or more'
            )
        order = scores.argsort(descending=True, stable=True)
        object.__setattr__(self, 'boxes', boxes[order])
        object.__setattr__(self, 'scores', scores[order])
        object.__setattr__(self, 'labels', labels[order])
        object.__setattr__(self, 'image_size', (height, width))

    @classmethod
    def empty(cls, image_size: Sequence[int] = (1, 1)) -> Detections:
        """No objects; the size of the image matters only where there are any."""
        return cls([], [], [], image_size)

    @classmethod
    def from_instances(cls, instances: InstanceData, image_size: Sequence[int]) -> Detections:
        """From mmengine's InstanceData with ``bboxes``, ``scores`` and ``labels``, as MMDet gives them."""
        return cls(instances.bboxes, instances.scores, instances.labels, image_size)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]] | np.ndarray, image_size: Sequence[int]) -> Detections:
        """From rows [x, y, width, height, score, label], see :meth:`to_rows`."""
        values = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
        corner, size = values[:, :2], values[:, 2:4]
        return cls(np.concatenate([corner, corner + size], axis=1), values[:, 4], values[:, 5], image_size)

    def __len__(self) -> int:
        return len(self.scores)

    def scaled_to(self, image_size: Sequence[int]) -> Detections:
        """The same objects on the image at another size (height, width)."""
        (old_h, old_w), (height, width) = self.image_size, image_size
        scale = self.boxes.new_tensor([width / old_w, height / old_h]).repeat(2)
        return Detections(self.boxes * scale, self.scores, self.labels, image_size)

    def filtered(self, score_thr: float = 0.0, max_count: int | None = None) -> Detections:
        """The ``max_count`` highest-scoring objects with a score of ``score_thr`` or more.

        Boxes are clipped to the image; those that are empty then are left out.
        """
        return self.filtered_and_counted(score_thr, max_count)[0]

    def filtered_and_counted(
        self, score_thr: float = 0.0, max_count: int | None = None
    ) -> tuple[Detections, Counter[str]]:
        """As :meth:`filtered`, with how many objects were left out for which reason."""
        height, width = self.image_size
        boxes = self.boxes.clamp(min=0).minimum(self.boxes.new_tensor([width, height, width, height]))
        visible = (boxes[:, 2:] > boxes[:, :2]).all(1)
        keep = visible & (self.scores >= score_thr)
        kept = Detections(boxes[keep], self.scores[keep], self.labels[keep], self.image_size)
        best = kept.top(max_count)
        dropped = {
            'with an empty box in the image': len(self) - int(visible.sum()),
            f'with a score below {score_thr}': int(visible.sum()) - len(kept),
            f'beyond the {max_count} highest-scoring of their image': len(kept) - len(best),
        }
        return best, Counter({reason: count for reason, count in dropped.items() if count})

    def top(self, count: int | None) -> Detections:
        """The ``count`` highest-scoring objects; all when None."""
        return Detections(self.boxes[:count], self.scores[:count], self.labels[:count], self.image_size)

    def relative_boxes(self) -> Tensor:
        """Boxes (n, 4) relative to the image's width and height."""
        height, width = self.image_size
        return self.boxes / self.boxes.new_tensor([width, height, width, height])

    def to_rows(self) -> list[list[float]]:
        """Rows [x, y, width, height, score, label], rounded as files store them: boxes to 2 digits, scores to 5."""
        boxes = self.boxes.detach().cpu().double()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).round(decimals=2)
        rows = zip(boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [[*box, round(score, 5), label] for box, score, label in rows]

    def as_stored(self) -> Detections:
        """Rounded as a file gives them back: a detector inside a model finds what was extracted before."""
        return Detections.from_rows(self.to_rows(), self.image_size)

    def to_coco(
        self, image_id: int, first_id: int = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, object]]:
        """COCO annotations, one an object.

        Args:
            image_id: of the image they belong to.
            first_id: id of the first annotation; the others count on.
            category_ids: the id of each label; label + 1 when None.
        """
        return [
            dict(
                id=first_id + index,
                image_id=image_id,
                category_id=int(label) + 1 if category_ids is None else category_ids[int(label)],
                bbox=[x, y, w, h],
                area=round(w * h, 2),
                iscrowd=0,
                score=score,
            )
            for index, (x, y, w, h, score, label) in enumerate(self.to_rows())
        ]

    def to_instances(self) -> InstanceData:
        """As mmengine's InstanceData with ``bboxes``, ``scores`` and ``labels``, as a DataSample holds them."""
        from mmengine.structures import InstanceData

        return InstanceData(bboxes=self.boxes, scores=self.scores, labels=self.labels)

    def __repr__(self) -> str:
        return f'Detections({len(self)} objects, image_size={self.image_size})'


def _tensor(values: Tensor | ArrayLike, name: str) -> Tensor:
    if not isinstance(values, Tensor):
        values = np.asarray(values)
        if values.dtype.kind not in 'iuf':
            raise TypeError(f'{name} hold {values.dtype}, expected numbers')
        values = torch.as_tensor(values)
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f'{name} hold {values.dtype}, expected numbers')
    return values
