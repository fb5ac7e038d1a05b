from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.detection.detector import as_proposals
from galr_mm.models.retrievers.dual_encoder import DualEncoder, build
from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph


@MODELS.register_module()
class GaLR(DualEncoder):
    """Global and local retrieval (Yuan et al., IEEE TGRS 2022, doi 10.1109/TGRS.2022.3163706).

    The image tower has two branches: backbone -> MVSA, and proposals -> DREA -> GCN; MIDF fuses them. A fusion mode
    that uses one branch only leaves the other unbuilt.

    Args:
        backbone: gives feature maps, from fine to coarse.
        visual: the global encoder over them, :class:`galr_mm.MVSA` or :class:`galr_mm.CLIPEmbedding`.
        drea: proposals -> object graph, :class:`galr_mm.DREA`.
        gcn: object graph -> vector, :class:`galr_mm.GCN`; in_channels and num_nodes follow from ``drea``, embed_dim
            from ``visual``.
        fusion: :class:`galr_mm.MIDF`; dim and the widths of the tokens follow from ``visual`` and ``gcn``.
        roi: adds what the backbone sees in each box to the node features, :class:`galr_mm.RoINodes`; in_channels follow
            from ``visual``.
        proposal_generator: finds the objects of images that come without proposals: the config of an MMDet detector
            with its weights, ``dict(_scope_='mmdet', type=..., init_cfg=dict(type='Pretrained', checkpoint=...))``, or
            a :class:`galr_mm.ProposalGenerator`. Not for training, whose augmentation moves boxes.
        text_encoder: :class:`galr_mm.BiGRUEncoder` or another.
        loss, neck, precision, data_preprocessor: see :class:`galr_mm.DualEncoder`.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        visual: dict | nn.Module,
        drea: dict | nn.Module,
        gcn: dict | nn.Module,
        fusion: dict | nn.Module,
        text_encoder: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        neck: dict | nn.Module | None = None,
        precision: str = 'fp32',
        roi: dict | nn.Module | None = None,
        proposal_generator: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(backbone, visual, text_encoder, loss, neck, precision, data_preprocessor, init_cfg)
        self.drea = build(drea)
        self.roi = None if roi is None else build(roi, in_channels=self.visual.in_channels)
        num_features = self.drea.num_features + (self.roi.out_channels if self.roi else 0)
        width = self.visual.embed_dim
        self.gcn = build(gcn, in_channels=num_features, num_nodes=self.drea.num_nodes, embed_dim=width)
        tokens = dict(global_channels=self.visual.token_channels, local_channels=self.gcn.token_channels)
        self.fusion = build(fusion, dim=width, **tokens)
        if self.roi is not None and not self.fusion.uses_global:
            raise ValueError(f'mode={self.fusion.mode!r} has no backbone for roi to look at')
        self.proposal_generator = self._build_generator(proposal_generator)
        if not self.fusion.uses_local:
            self.drea = self.gcn = self.roi = self.proposal_generator = None
        if not self.fusion.uses_global:
            self.backbone = self.neck = self.visual = None
        self._said_constant = False

    def encode_image(self, images: Tensor, graph: ObjectGraph | None = None) -> Tensor:
        """L2-normalized features (B, D) of normalized images (B, 3, H, W) and their object graphs.

        Without graphs no image has objects: the local branch is a constant.
        """
        v_g = g_tokens = v_l = l_tokens = mask = None
        if self.fusion.uses_global:
            maps = self.extract_maps(images)
            g_tokens, v_g = self.visual(maps)
        if self.fusion.uses_local:
            if graph is None:
                graph = ObjectGraph.empty(len(images), self.drea.num_nodes, self.drea.num_features, like=images)
            if self.roi is not None:
                graph = self.roi(graph, maps)
            l_tokens, v_l = self.gcn(graph)
            mask = graph.mask
        return F.normalize(self.fusion(v_g, v_l, g_tokens, l_tokens, mask), dim=-1)

    def build_graph(self, images: Tensor, data_samples: list[DataSample] | None) -> ObjectGraph | None:
        """Object graphs from the proposals that the samples bring; None when no sample brings any."""
        if not self.fusion.uses_local:
            return None
        found = [sample.get('proposals') for sample in data_samples or []]
        if self.proposal_generator is not None and any(proposals is None for proposals in found):
            found = self._generate(found, data_samples)
        if all(proposals is None for proposals in found):
            self._say_constant()
            return None
        none = InstanceData(
            bboxes=images.new_zeros(0, 4), scores=images.new_zeros(0), labels=images.new_zeros(0).long()
        )
        shapes = [sample.get('img_shape', images.shape[-2:])[:2] for sample in data_samples]
        return self.drea([none if proposals is None else proposals for proposals in found], shapes)

    def _build_generator(self, config: dict | nn.Module | None) -> nn.Module | None:
        if isinstance(config, Mapping) and config.get('type') not in ('galr_mm.ProposalGenerator', 'ProposalGenerator'):
            config = dict(type='galr_mm.ProposalGenerator', detector=config)
        generator = build(config)
        classes = getattr(generator, 'classes', None)
        if classes is not None and len(classes) != self.drea.num_classes:
            raise ValueError(
                f'the proposal generator knows {len(classes)} classes, but drea has num_classes={self.drea.num_classes}'
            )
        return generator

    def _generate(self, found: list[InstanceData | None], data_samples: list[DataSample]) -> list[InstanceData]:
        """Find objects in the image files of samples without proposals, in pixels of the sample's image."""
        if self.training:
            raise RuntimeError(
                'training needs proposals that were extracted before (tools/extract_proposals.py): augmentation moves '
                'the image, and a proposal generator sees the file'
            )
        missing = [number for number, proposals in enumerate(found) if proposals is None]
        paths = [data_samples[number].get('img_path') for number in missing]
        if None in paths:
            return found
        for number, objects in zip(missing, self.proposal_generator(paths), strict=True):
            fields = as_proposals(objects)
            size = np.asarray(data_samples[number].img_shape[1::-1]) / (objects.width, objects.height)
            found[number] = InstanceData(
                bboxes=torch.as_tensor(fields['gt_bboxes'] * np.tile(size, 2), dtype=torch.float32),
                scores=torch.from_numpy(fields['proposal_scores']),
                labels=torch.from_numpy(fields['gt_bboxes_labels']),
            ).to(next(self.parameters()).device)
        return found

    def _say_constant(self) -> None:
        if self._said_constant:
            return
        self._said_constant = True
        print_log(
            'NO PROPOSALS: the local branch of GaLR is a constant, '
            + ('this is the global branch only. ' if self.fusion.uses_global else 'ALL IMAGES LOOK ALIKE. ')
            + 'Make proposals with '
            '`python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out DATA_ROOT/proposals.json`; '
            'data sets take that file by themselves. (model.fusion.mode=global_only trains without the local branch.)',
            'current',
            logging.WARNING,
        )
