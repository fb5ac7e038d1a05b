from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from galr_mm.models.detection.proposal_generator import ProposalGenerator
from galr_mm.models.graph.drea import DREA
from galr_mm.models.graph.gcn import GCN
from galr_mm.models.graph.roi import RoINodes
from galr_mm.registry import MODELS
from galr_mm.structures import Detections, ObjectGraph
from galr_mm.utils.logging import warn_once


class LocalFeatures(NamedTuple):
    """What the local branch makes of the objects of a batch.

    Shapes:
        - tokens: (B, N, token_channels), one vector a node, zero for padding
        - embedding: v_l (B, D), all objects as one vector, L2-normalized
        - mask: bool (B, N), true for real objects
    """

    tokens: Tensor
    embedding: Tensor
    mask: Tensor


@MODELS.register_module()
class LocalBranch(BaseModule):
    """The local branch of GaLR (Sec. III-C): proposals -> DREA -> object graph -> GCN -> features.

    Args:
        drea: proposals -> object graph, :class:`galr_mm.DREA`.
        gcn: object graph -> features, :class:`galr_mm.GCN`; in_channels and num_nodes follow from ``drea`` (and
            ``roi``).
        roi: adds what the backbone sees in each box to the node features, :class:`galr_mm.RoINodes`.
        detector: finds the objects of images that come without proposals, :class:`galr_mm.ProposalGenerator`. Not for
            training, whose augmentation moves boxes.
        in_channels: channels of the backbone's maps, for ``roi``; GaLR gives them.
        embed_dim: width of the embedding; by default that of ``gcn``. GaLR gives the width of its global branch.
        proposal_dropout: in training, the probability with which each proposal is left out.
        box_jitter: in training, by how much of its size the edges of each box move (standard deviation).

    Shapes:
        - input: :class:`ObjectGraph` of :meth:`build_graph`, or by hand of ``drea``
        - output: :class:`LocalFeatures`

    Raises:
        ValueError: when ``roi`` has no backbone to look at, or ``detector`` knows another number of classes than
            ``drea``; for a ``proposal_dropout`` that is not from 0 to below 1 or a ``box_jitter``
            that is not from 0 to 1.
    """

    def __init__(
        self,
        drea: dict[str, Any] | nn.Module,
        gcn: dict[str, Any] | nn.Module,
        roi: dict[str, Any] | nn.Module | None = None,
        detector: dict[str, Any] | nn.Module | None = None,
        in_channels: Sequence[int] | None = None,
        embed_dim: int | None = None,
        proposal_dropout: float = 0.0,
        box_jitter: float = 0.0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if roi is not None and in_channels is None:
            raise ValueError('roi needs the maps of a backbone to look at, and there is none')
        if not (0 <= proposal_dropout < 1 and 0 <= box_jitter <= 1):
            raise ValueError(
                f'proposal_dropout is {proposal_dropout}, box_jitter {box_jitter}; expected from 0 to below 1, and to 1'
            )
        self.proposal_dropout = proposal_dropout
        self.box_jitter = box_jitter
        self.drea: DREA = _build(drea)
        self.roi: RoINodes | None = None if roi is None else _build(roi, in_channels=in_channels)
        num_features = self.drea.num_features + (self.roi.out_channels if self.roi is not None else 0)
        width = {} if embed_dim is None else dict(embed_dim=embed_dim)
        self.gcn: GCN = _build(gcn, in_channels=num_features, num_nodes=self.drea.num_nodes, **width)
        self.detector: ProposalGenerator | None = None if detector is None else _build(detector)
        if self.detector is not None and len(self.detector.classes) != self.drea.num_classes:
            raise ValueError(
                f'the detector knows {len(self.detector.classes)} classes, but drea has '
                f'num_classes={self.drea.num_classes}'
            )

    @property
    def token_channels(self) -> int:
        """Width of the tokens."""
        return self.gcn.token_channels

    def forward(self, graph: ObjectGraph, maps: Sequence[Tensor] | None = None) -> LocalFeatures:
        """Encode object graphs; ``roi`` looks at the maps (B, C_i, H_i, W_i) of the backbone."""
        if self.roi is not None:
            if maps is None:
                raise ValueError('roi needs the maps of the backbone')
            graph = self.roi(graph, maps)
        tokens, embedding = self.gcn(graph)
        return LocalFeatures(tokens, embedding, graph.mask)

    def empty_graph(self, images: Tensor) -> ObjectGraph:
        """Graphs without any object, one an image (B, 3, H, W)."""
        return ObjectGraph.empty(len(images), self.drea.num_nodes, self.drea.num_features, like=images)

    def build_graph(self, images: Tensor, data_samples: Sequence[DataSample]) -> ObjectGraph | None:
        """Graphs of a batch of images (B, 3, H, W), from the proposals of its samples.

        An image that comes without ``proposals`` gets those that the detector finds in its ``img_path``, in pixels of
        ``img_shape``. Where there is no detector, or the sample has no path, the image has no objects; that is logged
        once.

        Returns:
            The graphs; None when no image has proposals.

        Raises:
            RuntimeError: when the detector would be needed in training.
        """
        shapes = [tuple(sample.get('img_shape', images.shape[-2:]))[:2] for sample in data_samples]
        found: list[InstanceData | None] = [sample.get('proposals') for sample in data_samples]
        missing = [index for index, proposals in enumerate(found) if proposals is None]
        if missing and self.detector is not None:
            if self.training:
                raise RuntimeError(
                    'training needs proposals that were extracted before (tools/extract_proposals.py): augmentation '
                    'moves the image, and a detector inside the model sees the file'
                )
            readable = [index for index in missing if data_samples[index].get('img_path')]
            if len(readable) < len(missing):
                warn_once(
                    'local branch: no path',
                    f'{len(missing) - len(readable)} of {len(found)} images of a batch have neither proposals nor an '
                    'img_path for the detector, so they are taken as images without objects (logged once)',
                )
            paths = [data_samples[index].img_path for index in readable]
            for index, detections in zip(readable, self.detector(paths) if paths else [], strict=True):
                found[index] = detections.scaled_to(shapes[index]).to_instances().to(images.device)
        if all(proposals is None for proposals in found):
            warn_once(
                'local branch: no proposals',
                'No proposals: the local branch of GaLR gives every image the same features. Make proposals with '
                '`python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out DATA_ROOT/proposals.json`, which '
                'data sets take by themselves, or give the local branch a detector. '
                '(model.local=None is the global branch alone. Logged once.)',
            )
            return None
        if missing and self.detector is None:
            warn_once(
                'local branch: some without proposals',
                f'{len(missing)} of {len(found)} images of a batch have no proposals, so they are taken as images '
                'without objects (logged once)',
            )
        none = Detections.empty().to_instances().to(images.device)
        objects = [none if proposals is None else proposals for proposals in found]
        if self.training and (self.proposal_dropout or self.box_jitter):
            objects = [perturb(proposals, self.proposal_dropout, self.box_jitter) for proposals in objects]
        return self.drea(objects, shapes)


def perturb(proposals: InstanceData, dropout: float, jitter: float) -> InstanceData:
    """Some of the proposals (n boxes), their edges moved by ``jitter`` times their size, normally distributed."""
    kept = proposals[torch.rand(len(proposals), device=proposals.bboxes.device) >= dropout]
    size = (kept.bboxes[:, 2:] - kept.bboxes[:, :2]).repeat(1, 2)
    kept.bboxes = kept.bboxes + jitter * size * torch.randn_like(kept.bboxes)
    return kept


def _build(config: Mapping[str, Any] | nn.Module, **defaults: Any) -> Any:
    """A part from its config; a part that is built already is passed through."""
    return config if isinstance(config, nn.Module) else MODELS.build(config, default_args=defaults)
