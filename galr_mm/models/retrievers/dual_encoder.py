from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph
from galr_mm.text import caption_key
from galr_mm.utils.precision import autocast


def build(config: dict | nn.Module | None, **defaults: Any) -> nn.Module | None:
    """Build a part from its config; a part that is built already (or None) is passed through."""
    if config is None or isinstance(config, nn.Module):
        return config
    return MODELS.build(config, default_args=defaults)


@MODELS.register_module()
class DualEncoder(BaseModel):
    """An image tower and a text tower whose L2-normalized outputs are compared by their dot product.

    It runs under mmengine's plain loops with :class:`galr_mm.RetrievalEvaluator`, and under mmpretrain's
    ``RetrievalTestLoop`` and its two retrieval inferencers.

    Args:
        backbone: gives feature maps; any mmpretrain or mmdet backbone, or :class:`galr_mm.OpenCLIPBackbone`.
        visual: makes one vector of them (:class:`galr_mm.MVSA`, :class:`galr_mm.GlobalPool`); its ``in_channels`` are
            found out by a dry run of the backbone where the config leaves them out.
        text_encoder: :class:`galr_mm.BiGRUEncoder` or another that takes a list of captions.
        loss: :class:`galr_mm.TripletLoss` or :class:`galr_mm.ContrastiveLoss`; needed for training only.
        neck: between backbone and ``visual``, such as an mmdet.FPN.
        precision: of backbone and neck: 'fp32', or 'amp_bf16' (autocast to bfloat16; the maps are float32). It works on
            a CPU too: a ResNet-18 took half the time on one with bfloat16 instructions.
        data_preprocessor: normalizes the images; by default the one that the backbone's weights want, if it says so.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        visual: dict | nn.Module,
        text_encoder: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        neck: dict | nn.Module | None = None,
        precision: str = 'fp32',
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        autocast(precision, torch.device('cpu'))  # refuse a wrong name before weights are loaded
        backbone = build(backbone)
        super().__init__(data_preprocessor or getattr(backbone, 'data_preprocessor', None), init_cfg)
        self.backbone = backbone
        self.neck = build(neck)
        self.precision = precision
        self.visual = build(visual, **self._seen_by_visual(visual))
        self.text_encoder = build(text_encoder)
        self.loss_module = build(loss)

    def forward(
        self, images: Tensor | None = None, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DataSample]:
        """Run one of three modes: 'tensor' gives features, 'loss' losses, 'predict' samples with their features."""
        if mode == 'tensor':
            return self.extract_feat(images, data_samples)
        if mode == 'loss':
            return self.loss(images, data_samples)
        if mode == 'predict':
            return self.predict(images, data_samples)
        raise RuntimeError(f"mode is {mode!r}, expected 'tensor', 'loss' or 'predict'")

    def encode_image(self, images: Tensor, graph: ObjectGraph | None = None) -> Tensor:
        """L2-normalized features (B, D) of normalized images (B, 3, H, W); ``graph`` has no part in this model."""
        return F.normalize(self.visual(self.extract_maps(images)).embedding, dim=-1)

    def extract_maps(self, images: Tensor) -> Sequence[Tensor]:
        """Feature maps (B, C_i, H_i, W_i), from fine to coarse, of normalized images (B, 3, H, W)."""
        if self.precision != 'fp32':  # the layout that bfloat16 kernels want
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, images.device):
            maps = self.backbone(images)
            maps = maps if self.neck is None else self.neck(maps)
        if self.precision == 'fp32' or hasattr(maps, 'embedding'):  # a CLIP's are float32 already
            return maps
        return [m.float() for m in maps]

    def _seen_by_visual(self, visual: dict | nn.Module) -> dict[str, Any]:
        """Channels of the maps and width of a CLIP's embedding, seen by a dry run where the config lacks them."""
        if isinstance(visual, nn.Module) or 'in_channels' in visual:
            return {}
        side = getattr(self.backbone, 'image_size', (224, 224))
        modes = {module: module.training for module in self.modules()}
        try:
            with torch.no_grad():
                maps = self.eval().extract_maps(torch.zeros(1, 3, *side))
            shapes = [tuple(m.shape) for m in maps]
        except Exception as error:
            raise ValueError(
                f'a dry run of the backbone at {side} pixels failed ({type(error).__name__}: {error}); mend it, or say '
                'visual.in_channels'
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        if any(len(shape) != 4 for shape in shapes):
            raise ValueError(
                f'the backbone gives {shapes}, expected maps (B, C, H, W); a transformer of mmpretrain gives them with '
                "out_type='featmap'"
            )
        seen: dict[str, Any] = dict(in_channels=tuple(shape[1] for shape in shapes))
        if hasattr(maps, 'embedding') and 'embed_dim' not in visual:
            seen['embed_dim'] = maps.embedding.shape[1]
        return seen

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """L2-normalized features (T, D) of a list of captions, given in the form the text encoder takes."""
        if isinstance(texts, str):
            raise TypeError(f'expected a list of captions, got one string: {texts!r}')
        return F.normalize(self.text_encoder(texts), dim=-1)

    def build_graph(self, images: Tensor, data_samples: list[DataSample] | None) -> ObjectGraph | None:
        """Object graphs of a batch, for models that have a local branch."""
        return None

    def extract_feat(
        self, images: Tensor | None = None, data_samples: list[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """``image_feat`` (B, D) of the images and ``text_feat`` (T, D) of all captions, where there are any."""
        feats = {}
        if images is not None:
            feats['image_feat'] = self.encode_image(images, self.build_graph(images, data_samples))
        texts = [text for sample in data_samples or [] for text in texts_of(sample)]
        if texts:
            feats['text_feat'] = self.encode_text(texts)
        widths = {name: feat.shape[1] for name, feat in feats.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f'the two towers give vectors of different widths, {widths}; set embed_dim of one of them')
        return feats

    def loss(self, images: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch with one caption an image."""
        if self.loss_module is None:
            raise RuntimeError('training needs a loss, e.g. loss=dict(type="galr_mm.ContrastiveLoss")')
        feats = self.extract_feat(images, data_samples)
        image_feat, text_feat = feats['image_feat'], feats['text_feat']
        if len(image_feat) != len(text_feat):
            raise ValueError(
                f'training takes one caption an image, got {len(image_feat)} images and {len(text_feat)} captions'
            )
        image_ids, caption_ids = pair_ids(data_samples)
        return self.loss_module(
            image_feat, text_feat, image_ids.to(image_feat.device), caption_ids.to(image_feat.device)
        )

    def predict(self, images: Tensor | None, data_samples: list[DataSample]) -> list[DataSample]:
        """Each sample with ``image_feat`` (D,) and ``text_feat`` (n, D) of its n captions, as far as it has them."""
        feats = self.extract_feat(images, data_samples)
        start = 0
        for number, sample in enumerate(data_samples):
            if 'image_feat' in feats:
                sample.image_feat = feats['image_feat'][number]
            count = len(texts_of(sample))
            if count:
                sample.text_feat = feats['text_feat'][start : start + count]
            start += count
        return data_samples

    def predict_all(
        self,
        feats: dict[str, Tensor],
        data_samples: list[DataSample] | None,
        num_images: int | None = None,
        num_texts: int | None = None,
        cal_i2t: bool = True,
        cal_t2i: bool = True,
    ) -> tuple[list[DataSample], ...]:
        """Score this process's queries against the whole gallery: mmpretrain's retrieval contract.

        Under mmpretrain's RetrievalTestLoop. With several processes each must hold a contiguous share of the data set,
        ``sampler=dict(type='mmpretrain.SequentialSampler', subsample_type='sequential')``; under mmengine's plain loops
        with RetrievalEvaluator any sampler does.

        Args:
            feats: what :meth:`extract_feat` gave for this process's samples, concatenated.
            data_samples: those samples.
            num_images: images of the whole gallery, without those that pad the last process's share.
            num_texts: likewise captions.
            cal_i2t: whether to score images against captions.
            cal_t2i: whether to score captions against images.
        """
        results = []
        if cal_i2t:
            scores = feats['image_feat'] @ gather_rows(feats['text_feat'])[:num_texts].t()
            samples = data_samples or [DataSample() for _ in scores]
            results.append([_prediction(s, row, s.get('gt_text_id')) for s, row in zip(samples, scores, strict=True)])
        if cal_t2i:
            scores = feats['text_feat'] @ gather_rows(feats['image_feat'])[:num_images].t()
            queries = [
                (DataSample(text=text), s.gt_image_id[i] if 'gt_image_id' in s else None)
                for s in data_samples or []
                for i, text in enumerate(texts_of(s))
            ] or [(DataSample(), None) for _ in scores]
            results.append([_prediction(s, row, label) for (s, label), row in zip(queries, scores, strict=True)])
        return tuple(results)


def texts_of(sample: DataSample) -> list:
    """Captions of a sample: none, one or a list."""
    text = sample.get('text')
    if text is None:
        return []
    return list(text) if isinstance(text, (list, tuple)) else [text]


def pair_ids(data_samples: list[DataSample]) -> tuple[Tensor, Tensor]:
    """Numbers (B,) and (B,) that are equal for equal images and for equal captions.

    Samples of a foreign data set may lack ``image_id`` (each then counts as an image of its own) or ``caption_id``
    (then the words decide).
    """
    numbers: dict = {}
    images, captions = [], []
    for position, sample in enumerate(data_samples):
        image = sample.get('image_id')
        image = image.item() if hasattr(image, 'item') else image
        images.append(numbers.setdefault(('image', position if image is None else image, image is None), len(numbers)))
        caption = sample.get('caption_id')
        if caption is None:
            text = texts_of(sample)[0]
            caption = caption_key(text) if isinstance(text, str) else position
        captions.append(numbers.setdefault(('caption', caption), len(numbers)))
    return torch.tensor(images), torch.tensor(captions)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; the numbers of rows may differ."""
    if get_world_size() == 1:
        return rows
    return torch.cat([part.to(rows.device) for part in all_gather_object(rows.cpu())])


def _prediction(sample: DataSample, scores: Tensor, label: Any) -> DataSample:
    # a fresh sample: DataSample freezes the length of its scores at the first call
    result = DataSample(metainfo=sample.metainfo)
    if 'text' in sample:
        result.text = sample.text
    if label is not None:
        result.gt_label = label
    result.set_pred_score(scores)
    result.set_pred_label(scores.argmax(keepdim=True))
    return result
