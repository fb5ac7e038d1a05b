r"""De-noised Representation and Enhanced Adjacency: from proposals to an object graph (GaLR Sec. III-C).

The paper gives the idea, not the values; every choice here is an option of :class:`DREA`. The steps, each a pure
function over a batch of images:

1. :func:`pad_proposals`    ragged proposals -> padded tensors in descending order of score, boxes relative to the image
2. :func:`find_duplicates`  which objects show the same thing twice
3. :func:`denoise`          merge duplicates, count them
4. :func:`node_features`    class, score and box of each object
5. :func:`adjacency`        how near two objects are
6. :func:`salience`         how much an object matters; :func:`enhance` lets it scale its edges
7. :func:`normalize`        D^-1/2 A D^-1/2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph

SIMILARITIES = ('box', 'cosine')
ADJACENCIES = ('distance', 'iou')
SALIENCES = ('area', 'count', None)


class Objects(NamedTuple):
    """Padded objects of a batch of images, in descending order of score.

    Shapes:
        - boxes: (B, M, 4), xyxy relative to the image's width and height, 0 to 1
        - scores: (B, M)
        - labels: int64 (B, M)
        - num_merged: (B, M), how many proposals were merged into the object, itself included; 0 for padding
        - mask: bool (B, M), true for real objects
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num_merged: Tensor
    mask: Tensor


def pad_proposals(
    proposals: Sequence[InstanceData],
    img_shapes: Sequence[tuple[int, int]],
    max_objects: int = 100,
    score_thr: float | None = None,
) -> Objects:
    """Pad proposals to one size, clip boxes to the image and sort in descending order of score.

    Objects below ``score_thr`` are dropped, those with NaN or infinite values, and boxes that are inverted, empty or
    outside the image. Equal scores are ordered by label and box, so the order in which objects are given does not
    matter.

    Args:
        proposals: per image ``bboxes`` (n, 4) xyxy in pixels, ``scores`` (n,) and ``labels`` (n,).
        img_shapes: per image (height, width) in pixels.
        max_objects: keep the N highest-scoring objects of each image.
        score_thr: the lowest score that is kept; None keeps all.

    Returns:
        The objects, with M between 0 and ``max_objects``.
    """
    device = proposals[0].bboxes.device
    # B, M, 6: box, score, label
    rows = pad_sequence(
        # to float first: whole pixels beside half-precision scores would become half
        [torch.cat([p.bboxes.float(), p.scores[:, None].float(), p.labels[:, None].float()], dim=1) for p in proposals],
        batch_first=True,
    )
    lengths = torch.tensor([len(p.scores) for p in proposals], device=device)
    present = torch.arange(rows.shape[1], device=device) < lengths[:, None]
    size = torch.tensor([(w, h, w, h) for h, w in img_shapes], dtype=rows.dtype, device=device)  # B, 4
    finite = rows.isfinite().all(-1)
    boxes = torch.where(finite[..., None], rows[..., :4], 0.0) / size[:, None]
    boxes = boxes.clamp(0, 1)
    mask = present & finite & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    if score_thr is not None:
        mask &= rows[..., 4] >= score_thr

    scores = torch.where(mask, rows[..., 4], -torch.inf)
    order = _stable_order(scores, rows[..., 5], boxes)[:, :max_objects]
    mask = mask.gather(1, order)
    length = int(mask.sum(1).max()) if mask.numel() else 0
    order, mask = order[:, :length], mask[:, :length]

    def pick(values: Tensor) -> Tensor:
        return torch.where(mask, values.gather(1, order), 0.0)

    boxes = torch.stack([pick(boxes[..., i]) for i in range(4)], dim=-1)
    labels = pick(rows[..., 5]).long()
    return Objects(boxes, pick(rows[..., 4]), labels, mask.to(boxes.dtype), mask)


def _stable_order(scores: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """Order (B, M) in descending order of score, then by label, then by box."""
    order = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    for key in [*boxes.unbind(-1)[::-1], labels, -scores]:  # the most important key is sorted by last
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def pairwise_iou(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs of boxes (B, M, 4) xyxy -> (B, M, M); 0 where both are empty."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = area[:, :, None] + area[:, None, :] - overlap
    return torch.where(union > 0, overlap / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def box_similarity(boxes: Tensor) -> Tensor:
    r"""How alike two boxes are, (B, M, 4) xyxy -> (B, M, M) in 0 to 1, whatever their size.

    .. math::
        s_{ij} = \exp\!\left(-\frac{(x_i-x_j)^2}{w_i w_j} - \frac{(y_i-y_j)^2}{h_i h_j}
                 - \ln^2\frac{w_i}{w_j} - \ln^2\frac{h_i}{h_j}\right)

    with centers (x, y) and sizes (w, h). Offsets count in units of the boxes' own size, so two small neighbors are far
    apart; a cosine of the box coordinates would call them equal.
    """
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    center = (boxes[..., 2:] + boxes[..., :2]) / 2
    offset = (center[:, :, None] - center[:, None]).square() / (size[:, :, None] * size[:, None])
    ratio = (size[:, :, None] / size[:, None]).log().square()
    return torch.exp(-(offset + ratio).sum(-1))


def find_duplicates(
    objects: Objects, iou_thr: float = 0.5, tau: float = 0.95, similarity: str = 'box', num_classes: int = 0
) -> Tensor:
    """Pairs of objects that show the same thing, bool (B, M, M).

    'box' (default): equal class AND (IoU over ``iou_thr`` OR :func:`box_similarity` over ``tau``).
    'cosine': cosine of the whole node features over ``tau``. It is dominated by the one-hot class and merges
    neighbors of one class (a car park becomes one car); kept for comparison only. It needs ``num_classes``.
    """
    if similarity == 'cosine':
        features = F.normalize(node_features(objects, num_classes), dim=-1)
        same = features @ features.transpose(1, 2) > tau
    else:
        same = (pairwise_iou(objects.boxes) > iou_thr) | (box_similarity(objects.boxes) > tau)
        same &= objects.labels[:, :, None] == objects.labels[:, None, :]
    return same & objects.mask[:, :, None] & objects.mask[:, None, :]


def denoise(objects: Objects, duplicates: Tensor) -> Objects:
    """Merge duplicates: in descending order of score, an object joins the first kept one that it duplicates.

    A merged object has the best score, the score-weighted mean box and the number of its proposals in ``num_merged``.
    The kept ones keep their order; M stays, freed places are padding at the end.
    """
    _, size = objects.scores.shape
    keep = objects.mask.clone()
    owner = torch.arange(size, device=keep.device).expand_as(objects.labels).clone()
    for rank in range(1, size):  # a loop over score ranks; all images at once
        joins = duplicates[:, rank, :rank] & keep[:, :rank]  # B, rank
        joined = joins.any(1)
        keep[:, rank] &= ~joined
        owner[:, rank] = torch.where(joined, joins.int().argmax(1), owner[:, rank])  # argmax: the first true
    # members[b, i, j]: proposal j belongs to kept object i
    members = (owner[:, None, :] == torch.arange(size, device=keep.device)[:, None]) & objects.mask[:, None, :]
    members = (members & keep[:, :, None]).to(objects.boxes.dtype)
    weight = members * objects.scores.clamp(min=1e-6)[:, None, :]
    boxes = (weight @ objects.boxes) / weight.sum(-1, keepdim=True).clamp(min=1e-6)

    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)  # kept ones first
    mask = keep.gather(1, order)

    def pick(values: Tensor) -> Tensor:
        return torch.where(mask, values.gather(1, order), torch.zeros_like(values))

    return Objects(
        torch.stack([pick(boxes[..., i]) for i in range(4)], dim=-1),
        pick(objects.scores),
        pick(objects.labels),
        pick((members * objects.num_merged[:, None, :]).sum(-1)),
        mask,
    )


def node_features(objects: Objects, num_classes: int) -> Tensor:
    """One-hot class (C), score (1) and relative (cx, cy, w, h): (B, M, C + 5), zero rows for padding."""
    boxes = objects.boxes
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    one_hot = F.one_hot(objects.labels, num_classes).to(boxes.dtype)
    features = torch.cat([one_hot, objects.scores[..., None], center, size], dim=-1)
    return features * objects.mask[..., None]


def adjacency(objects: Objects, kind: str = 'distance', sigma: float = 0.2) -> Tensor:
    r"""Symmetric nearness of objects with self loops, (B, M, M), zero where either is padding.

    'distance': :math:`a_{ij} = \exp(-d_{ij}^2 / 2\sigma^2)`, :math:`d` between centers relative to the image.
    'iou': :math:`a_{ij} = \mathrm{IoU}(b_i, b_j)`. Both have :math:`a_{ii} = 1`, the self loop.
    """
    if kind == 'iou':
        adj = pairwise_iou(objects.boxes)
    else:
        center = (objects.boxes[..., :2] + objects.boxes[..., 2:]) / 2
        adj = torch.exp(-(center[:, :, None] - center[:, None]).square().sum(-1) / (2 * sigma**2))
    adj = torch.maximum(adj, torch.eye(adj.shape[-1], dtype=adj.dtype, device=adj.device))
    return adj * objects.mask[:, :, None] * objects.mask[:, None, :]


def salience(objects: Objects, kind: str = 'area') -> Tensor:
    """Salience (B, M) in 0 to 1, the most salient object of an image at 1: score x relative area, or x count."""
    size = objects.boxes[..., 2:] - objects.boxes[..., :2]
    value = objects.scores * (size.prod(-1) if kind == 'area' else objects.num_merged)
    value = torch.where(objects.mask, value, 0.0).clamp(min=0)
    top = value.amax(dim=1, keepdim=True) if value.shape[1] else value
    return torch.where(top > 0, value / top.clamp(min=torch.finfo(value.dtype).tiny), 0.0)


def enhance(adj: Tensor, weight: Tensor) -> Tensor:
    r"""Strengthen edges and self loops of salient nodes: :math:`a'_{ij} = (1 + s_i)\,a_{ij}\,(1 + s_j)`."""
    gain = 1 + weight
    return gain[:, :, None] * adj * gain[:, None, :]


def normalize(adj: Tensor) -> Tensor:
    r""":math:`D^{-1/2} A D^{-1/2}` with :math:`D` the row sums; rows of padding stay zero.

    A node without neighbors gets 1, whatever its salience was.
    """
    degree = adj.sum(-1)
    scale = torch.where(degree > 0, degree.clamp(min=torch.finfo(adj.dtype).tiny).rsqrt(), 0.0)
    return scale[:, :, None] * adj * scale[:, None, :]


@MODELS.register_module()
class DREA(BaseModule):
    """De-noised Representation and Enhanced Adjacency (GaLR Sec. III-C): proposals -> :class:`ObjectGraph`.

    The module's own steps are described at the top of ``galr_mm/models/graph/drea.py``. It has no weights.

    Args:
        num_classes: classes of the detector.
        num_nodes: nodes of a graph; the highest-scoring objects are kept, fewer are padded.
        merge: whether duplicates are merged.
        iou_thr: objects of one class that overlap more are duplicates.
        tau: objects of one class whose boxes are more alike are duplicates.
        similarity: 'box', or 'cosine' over the whole feature vector (see :func:`find_duplicates`).
        adj: 'distance' or 'iou'.
        sigma: width of the distance kernel, in image sides.
        enhancement: 'area' (salience = score x relative area), 'count' (score x merged proposals) or None.
        max_objects: proposals of an image that are looked at.
        score_thr: the lowest score of these; None looks at all that were extracted.

    Shapes:
        - input: list of B InstanceData with bboxes (n, 4) xyxy in pixels, scores (n,), labels (n,); list of B (h, w)
        - output: ObjectGraph with x (B, num_nodes, num_classes + 5), adj (B, num_nodes, num_nodes), mask (B, num_nodes)
          and boxes (B, num_nodes, 4)

    Example:
        >>> import torch
        >>> from mmengine.structures import InstanceData
        >>> boxes = torch.tensor([[10., 10, 50, 50], [12, 10, 52, 50], [60, 60, 90, 90]])  # two alike
        >>> found = InstanceData(bboxes=boxes, scores=torch.tensor([.9, .8, .7]), labels=torch.tensor([1, 1, 0]))
        >>> graph = DREA(num_classes=2, num_nodes=4)([found], [(100, 100)])
        >>> graph.mask.tolist(), graph.x.shape
        ([[True, True, False, False]], torch.Size([1, 4, 7]))
    """

    def __init__(
        self,
        num_classes: int,
        num_nodes: int = 20,
        merge: bool = True,
        iou_thr: float = 0.5,
        tau: float = 0.95,
        similarity: str = 'box',
        adj: str = 'distance',
        sigma: float = 0.2,
        enhancement: str | None = 'area',
        max_objects: int = 100,
        score_thr: float | None = None,
    ) -> None:
        super().__init__()
        options = (
            ('similarity', similarity, SIMILARITIES),
            ('adj', adj, ADJACENCIES),
            ('enhancement', enhancement, SALIENCES),
        )
        for name, value, known in options:
            if value not in known:
                raise ValueError(f'{name} is {value!r}, expected one of {known}')
        if num_classes < 1 or num_nodes < 1 or max_objects < 1 or sigma <= 0:
            raise ValueError(
                f'num_classes, num_nodes, max_objects and sigma must be positive, got {num_classes}, {num_nodes}, '
                f'{max_objects} and {sigma}'
            )
        if not 0 <= iou_thr <= 1 or not -1 <= tau <= 1:
            raise ValueError(
                f'iou_thr is {iou_thr}, tau is {tau}, expected 0 to 1 and -1 to 1; at 1 nothing is over them'
            )
        if score_thr is not None and not 0 <= score_thr < 1:
            raise ValueError(f'score_thr is {score_thr}, expected 0 <= score_thr < 1, or None for all proposals')
        self.num_classes = num_classes
        self.num_nodes = num_nodes
        self.num_features = num_classes + 5
        self.merge = merge
        self.iou_thr = iou_thr
        self.tau = tau
        self.similarity = similarity
        self.adj = adj
        self.sigma = sigma
        self.enhancement = enhancement
        self.max_objects = max_objects
        self.score_thr = score_thr

    def forward(self, proposals: Sequence[InstanceData], img_shapes: Sequence[tuple[int, int]]) -> ObjectGraph:
        """Build the graphs of a batch.

        Raises:
            ValueError: when a label is not below ``num_classes`` or the two lists differ in length.
        """
        if len(proposals) != len(img_shapes):
            raise ValueError(f'{len(proposals)} images with proposals, but {len(img_shapes)} image sizes')
        if not len(proposals):
            return ObjectGraph.empty(0, self.num_nodes, self.num_features, like=torch.zeros(()))
        # half precision would move small boxes by pixels
        with torch.autocast(proposals[0].bboxes.device.type, enabled=False):
            objects = self.nodes(proposals, img_shapes)
            adj = adjacency(objects, self.adj, self.sigma)
            if self.enhancement:
                adj = enhance(adj, salience(objects, self.enhancement))
            x = node_features(objects, self.num_classes)
            return ObjectGraph(x, normalize(adj), objects.mask, objects.boxes)

    def nodes(self, proposals: Sequence[InstanceData], img_shapes: Sequence[tuple[int, int]]) -> Objects:
        """The objects that become the nodes of the graphs, (B, num_nodes)."""
        return Objects(*(self._fit(value) for value in self.objects(proposals, img_shapes)))

    def objects(self, proposals: Sequence[InstanceData], img_shapes: Sequence[tuple[int, int]]) -> Objects:
        """The de-noised objects of a batch, before they are cut or padded to ``num_nodes``."""
        objects = pad_proposals(proposals, img_shapes, self.max_objects, self.score_thr)
        wrong = objects.labels[(objects.labels < 0) | (objects.labels >= self.num_classes)]
        if wrong.numel():
            raise ValueError(
                f'a proposal has label {int(wrong[0])}, but DREA was built for num_classes={self.num_classes}; '
                'set it to the number of classes of the detector'
            )
        if not self.merge:
            return objects
        same = find_duplicates(objects, self.iou_thr, self.tau, self.similarity, self.num_classes)
        return denoise(objects, same)

    def _fit(self, value: Tensor) -> Tensor:
        """Cut or zero-pad dimension 1 to ``num_nodes``."""
        value = value[:, : self.num_nodes]
        missing = self.num_nodes - value.shape[1]
        return (
            torch.cat([value, value.new_zeros(value.shape[0], missing, *value.shape[2:])], dim=1) if missing else value
        )

    def extra_repr(self) -> str:
        """What a print of the model shows."""
        return (
            f'num_classes={self.num_classes}, num_nodes={self.num_nodes}, merge={self.merge}, iou_thr={self.iou_thr}, '
            f'tau={self.tau}, adj={self.adj!r}, enhancement={self.enhancement!r}, score_thr={self.score_thr}'
        )
