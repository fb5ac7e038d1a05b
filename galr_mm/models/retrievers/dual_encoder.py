from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, overload

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.checkpoint import checkpoint

from galr_mm.messages import shorten
from galr_mm.models.text import TokenizedTextEncoder
from galr_mm.models.visual import BackboneFeatures, EmbeddingBackbone, GlobalPool, StagedBackbone
from galr_mm.registry import MODELS
from galr_mm.structures import ImageId, ObjectGraph, stable_id
from galr_mm.text import caption_key
from galr_mm.utils.precision import autocast, check_precision


@overload
def build(config: dict | nn.Module, **defaults: Any) -> nn.Module: ...
@overload
def build(config: None, **defaults: Any) -> None: ...
@overload
def build(config: dict | nn.Module | None, **defaults: Any) -> nn.Module | None: ...
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
            inferred by a dry run of the backbone where the config leaves them out. Both parts are None in a subclass
            that encodes images without them.
        text_encoder: :class:`galr_mm.BiGRUEncoder` or another module that takes a list of captions.
        loss: :class:`galr_mm.TripletLoss` or :class:`galr_mm.ContrastiveLoss`; needed for training only.
        neck: between backbone and ``visual``, such as an mmdet.FPN.
        precision: of backbone and neck: 'fp32', or 'amp_bf16' (autocast to bfloat16; what they give is float32). It
            works on a CPU too: a ResNet-18 took half the time on one with bfloat16 instructions. Mixed precision of a
            whole training is ``optim_wrapper.type=AmpOptimWrapper``, of a whole test ``test_cfg.fp16``.
        data_preprocessor: normalizes the images; by default the one that the backbone's weights want, if it says so.
        cached: what comes in place of images, from a feature cache (``tools/cache_features.py``): the maps after a
            stage of a :class:`~galr_mm.models.visual.StagedBackbone` (its index), or 'pooled', the mean (B, C, 1, 1) of
            the backbone's last map. None takes images.
        micro_batch: images a forward pass in training, so that a batch of any size takes the memory of these: features
            of all come first, without activations, then one loss over the batch, and in the backward pass each part is
            encoded again with the random numbers it had (GradCache, Gao et al. 2021; open_clip's ``--accum-freq``). It
            costs one more forward pass. Gradients are those of one pass over the batch but for BatchNorm in training
            mode, which sees a part at a time, twice. Accumulation, clipping, mixed precision, several processes and
            ``gather`` of the loss work with it; random draws that are not torch's, inside the model, do not.

    Attributes:
        weights_from_files: every weight came from files that the config names, so the model means something without a
            checkpoint.

    Raises:
        ValueError: for an unknown precision, a micro_batch below 1, one of backbone and visual without the other, or a
            backbone whose outputs are not maps.
    """

    weights_from_files: bool = False

    def __init__(
        self,
        backbone: dict | nn.Module | None,
        visual: dict | nn.Module | None,
        text_encoder: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        neck: dict | nn.Module | None = None,
        precision: str = 'fp32',
        data_preprocessor: dict | nn.Module | None = None,
        cached: int | str | None = None,
        micro_batch: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_precision(precision)
        if micro_batch is not None and (type(micro_batch) is not int or micro_batch < 1):  # True is 1
            raise ValueError(
                f'micro_batch is {shorten(micro_batch)}, expected 1 image or more, or None for the whole batch'
            )
        without = [name for name, part in (('backbone', backbone), ('visual', visual)) if part is None]
        if len(without) == 1 or (without and neck is not None):
            raise ValueError(f'{without[0]} is None, but not all of backbone, visual and neck are; give them or none')
        if without and type(self).encode_image is DualEncoder.encode_image:
            raise ValueError(f'a {type(self).__name__} encodes images by backbone and visual; both are None')
        backbone = build(backbone)
        if data_preprocessor is None and isinstance(backbone, EmbeddingBackbone):
            data_preprocessor = backbone.data_preprocessor
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = backbone
        self.neck = build(neck)
        self.cached: int | str | None = None
        self.precision = precision
        self.micro_batch = micro_batch
        self.visual = self._build_visual(visual)
        self.text_encoder = build(text_encoder)
        self.loss_module = build(loss)
        self.cached = check_cached(self, cached)

    def map_readers(self) -> list[str]:
        """Names of the parts that read the backbone's maps, for which one vector an image is not enough."""
        reads = dict(neck=self.neck is not None, visual=not isinstance(self.visual, GlobalPool))
        return [name for name, does in reads.items() if does]

    def forward(
        self, images: Tensor | None = None, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DataSample]:
        """Run one of three modes: 'tensor' gives features, 'loss' losses, 'predict' samples with their features."""
        if mode == 'tensor':
            return self.extract_feat(images, data_samples)
        if data_samples is None:
            raise ValueError(f'mode={mode!r} needs data_samples')
        if mode == 'loss':
            return self.loss(images, data_samples)
        if mode == 'predict':
            return self.predict(images, data_samples)
        raise RuntimeError(f"mode is {mode!r}, expected 'tensor', 'loss' or 'predict'")

    def init_weights(self) -> None:
        """Initialize as the config says; then the backbone's weights lie in memory as its images do.

        Only then, because random values are drawn in the order of the memory.
        """
        super().init_weights()
        if self.backbone is not None:
            convert_conv2d_weight_memory_format(self.backbone, torch.channels_last)

    def encode_image(self, images: Tensor, graph: ObjectGraph | None = None) -> Tensor:
        """L2-normalized features (B, D) of normalized images (B, 3, H, W); ``graph`` has no part in this model."""
        visual = _present(self.visual, 'visual')
        return F.normalize(visual(*self.extract_maps(images)).embedding, dim=-1)

    def extract_maps(self, images: Tensor) -> BackboneFeatures:
        """What backbone and neck make of normalized images (B, 3, H, W): maps, and an embedding if it has one."""
        images = images.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
        with autocast(self.precision, images.device):
            maps, embedding = self._backbone_features(images)
            maps = maps if self.neck is None else self.neck(maps)
        if self.precision != 'fp32':
            maps, embedding = [m.float() for m in maps], None if embedding is None else embedding.float()
        return BackboneFeatures(maps, embedding)

    def _backbone_features(self, images: Tensor) -> BackboneFeatures:
        """What the backbone makes of images, or of what a feature cache holds in their place."""
        if self.cached == 'pooled':
            return BackboneFeatures([images])
        if isinstance(self.backbone, StagedBackbone) and isinstance(self.cached, int):
            return BackboneFeatures(self.backbone.forward_from(images, self.cached))
        if isinstance(self.backbone, EmbeddingBackbone):
            return self.backbone.extract_features(images)
        return BackboneFeatures(_present(self.backbone, 'backbone')(images))

    def _build_visual(self, visual: dict | nn.Module | None) -> nn.Module | None:
        """The global encoder, for the widths that the backbone has where its config lacks them."""
        if not isinstance(visual, dict) or 'in_channels' in visual:
            return build(visual)
        channels, embed_dim = self.infer_in_channels()
        if embed_dim is None:
            return build(visual, in_channels=channels)
        return build(visual, in_channels=channels, embed_dim=embed_dim)

    def infer_in_channels(self) -> tuple[tuple[int, ...], int | None]:
        """Channels of the maps and width of the backbone's own embedding (None without one), by a dry run.

        The run leaves the model, its gradients and the random numbers as they were.

        Raises:
            ValueError: when the backbone's outputs are not maps (B, C, H, W).
        """
        side = self.backbone.image_size if isinstance(self.backbone, EmbeddingBackbone) else (224, 224)
        try:
            with evaluating(self), torch.no_grad(), torch.random.fork_rng(devices=[]):
                maps, embedding = self.extract_maps(torch.zeros(1, 3, *side))
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f'in a dry run of the backbone at {side} pixels; visual.in_channels saves it')
            raise
        shapes = [tuple(m.shape) for m in maps]
        if any(len(shape) != 4 for shape in shapes):
            raise ValueError(
                f'the backbone gives {shapes}, expected maps (B, C, H, W); a transformer of mmpretrain gives them with '
                "out_type='featmap'"
            )
        return tuple(shape[1] for shape in shapes), None if embedding is None else embedding.shape[1]

    def encode_text(self, texts: Sequence[Any] | Tensor) -> Tensor:
        """L2-normalized features (T, D) of captions in the form the text encoder takes: a list of them, token ids."""
        if isinstance(texts, str):
            raise TypeError(f'expected a list of captions, got one string: {shorten(texts)}')
        return F.normalize(self.text_encoder(texts), dim=-1)

    def build_graph(self, images: Tensor, data_samples: list[DataSample] | None) -> ObjectGraph | None:
        """Object graphs of a batch, for models that have a local branch."""
        return None

    def extract_feat(
        self, images: Tensor | None = None, data_samples: list[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """``image_feat`` (B, D) of the images and ``text_feat`` (T, D) of all captions, where there are any."""
        return self._extract(images, data_samples, self._tokenize(data_samples))

    def _tokenize(self, data_samples: list[DataSample] | None) -> Sequence[Any] | Tensor:
        """All captions of a batch, as token ids where the text encoder has them."""
        texts = [text for sample in data_samples or [] for text in texts_of(sample)]
        if texts and isinstance(self.text_encoder, TokenizedTextEncoder):
            return self.text_encoder.tokenize(texts)
        return texts

    def _extract(
        self, images: Tensor | None, data_samples: list[DataSample] | None, texts: Sequence[Any] | Tensor
    ) -> dict[str, Tensor]:
        feats = {}
        if images is not None:
            feats['image_feat'] = self.encode_image(images, self.build_graph(images, data_samples))
        if isinstance(texts, Tensor) and len(texts):  # a caption that occurs more than once is encoded once
            distinct, index = texts.unique(dim=0, return_inverse=True)
            feats['text_feat'] = self.encode_text(distinct)[index]
        elif len(texts):
            feats['text_feat'] = self.encode_text(texts)
        widths = {name: feat.shape[1] for name, feat in feats.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f'the two towers give vectors of different widths, {widths}; set embed_dim of one of them')
        return feats

    def _extract_in_parts(self, images: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Features of a training batch, of which the graph keeps the activations of ``micro_batch`` images at most."""
        size = len(images) if self.micro_batch is None else self.micro_batch
        if size >= len(images):
            return self.extract_feat(images, data_samples)
        parts = [
            checkpoint(self.extract_feat, images[i : i + size], data_samples[i : i + size], use_reentrant=False)
            for i in range(0, len(images), size)
        ]
        return {name: torch.cat([feats[name] for feats in parts]) for name in parts[0]}

    def loss(self, images: Tensor | None, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch of images, each with one caption or more."""
        if self.loss_module is None:
            raise RuntimeError('training needs a loss, e.g. loss=dict(type="galr_mm.ContrastiveLoss")')
        if images is None:
            raise ValueError('training needs images')
        ids = pair_ids(data_samples)
        feats = self._extract_in_parts(images, data_samples)
        image_feat, text_feat = feats['image_feat'], feats['text_feat']
        image_ids, caption_ids, owner = (i.to(image_feat.device) for i in ids)
        if len(text_feat) == len(image_feat):  # one caption an image: a loss that knows nothing else will do
            return self.loss_module(image_feat, text_feat, image_ids, caption_ids)
        return self.loss_module(image_feat, text_feat, image_ids, caption_ids, owner)

    def predict(self, images: Tensor | None, data_samples: list[DataSample]) -> list[DataSample]:
        """Each sample with its features, as far as it has image and captions.

        They are ``image_feat`` (D,), ``text_feat`` (n, D) of its n captions, and ``text_key``, a list of n hashables
        that are equal where the text encoder cannot tell captions apart; encoders without token ids give none.
        """
        texts = self._tokenize(data_samples)
        feats = self._extract(images, data_samples, texts)
        keys = None
        if isinstance(texts, Tensor) and isinstance(self.text_encoder, TokenizedTextEncoder):
            keys = self.text_encoder.text_keys(texts)
        start = 0
        for index, sample in enumerate(data_samples):
            if 'image_feat' in feats:
                sample.image_feat = feats['image_feat'][index]
            stop = start + len(texts_of(sample))
            if stop > start:
                sample.text_feat = feats['text_feat'][start:stop]
                if keys is not None:
                    sample.text_key = keys[start:stop]
            start = stop
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

        Under mmpretrain's RetrievalTestLoop. With several processes each must hold a contiguous part of the data set,
        ``sampler=dict(type='mmpretrain.SequentialSampler', subsample_type='sequential')``; under mmengine's plain loops
        with RetrievalEvaluator any sampler does.

        Args:
            feats: what :meth:`extract_feat` gave for this process's samples, concatenated.
            data_samples: those samples.
            num_images: images of the whole gallery, without those that pad the last process's part.
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


def check_cached(model: DualEncoder, cached: int | str | None) -> int | str | None:
    """Pass ``cached`` on where the model can work from such features.

    Raises:
        ValueError: when it cannot; says what it would need.
    """
    if cached is None:
        return None
    if model.backbone is None:
        raise ValueError(f'cached is {cached!r}, but the model has no backbone whose features could be cached')
    if cached == 'pooled':
        if readers := model.map_readers():
            raise ValueError(
                f"cached='pooled' gives one vector an image, but {', '.join(readers)} of this model would read maps; "
                "cache those of a stage (visual=dict(type='galr_mm.GlobalPool') reads one vector)"
            )
        if any(weight.requires_grad for weight in model.backbone.parameters()):
            raise ValueError("cached='pooled' needs a backbone that is not trained; freeze it (frozen_stages)")
        return cached
    if isinstance(cached, bool) or not isinstance(cached, int):
        raise ValueError(f"cached is {cached!r}, expected a stage of the backbone, 'pooled' or None")
    if not isinstance(model.backbone, StagedBackbone):
        raise ValueError(
            f'cached is {cached}, but a {type(model.backbone).__name__} has no stages to start from '
            "(galr_mm.EfficientNetLite has); use 'pooled'"
        )
    model.backbone.require_stages_after(cached)
    if not 0 <= cached <= model.backbone.frozen_stages:
        raise ValueError(
            f'cached is {cached}, but frozen_stages is {model.backbone.frozen_stages}: stages that are trained cannot '
            'be cached'
        )
    return cached


def _present(part: nn.Module | None, name: str) -> nn.Module:
    if part is None:
        raise RuntimeError(f'this model was built with {name}=None')
    return part


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, and each of its modules back to the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def texts_of(sample: DataSample) -> list:
    """Captions of a sample: none, one or a list."""
    text = sample.get('text')
    if text is None:
        return []
    return list(text) if isinstance(text, (list, tuple)) else [text]


def pair_ids(data_samples: list[DataSample]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of the B images and T captions of a batch, equal for equal ones, and the row of each caption's image.

    They mean the same on all processes and in all data sets: an image is its file where its id is a
    :class:`~galr_mm.structures.ImageId`. Samples of a foreign data set may lack ``image_id`` (each then counts as an
    image of its own) or ``caption_id`` (then the words decide, and what is not words counts as a caption of its own).

    Shapes:
        - output: int64 (B,), (T,) and (T,)

    Raises:
        ValueError: when a sample has no caption, or another count of caption ids than of captions.
    """
    images: list[int] = []
    captions: list[int] = []
    owner: list[int] = []
    for position, sample in enumerate(data_samples):
        image = sample.get('image_id')
        image = image.item() if isinstance(image, Tensor) else image
        image = image.file or image if isinstance(image, ImageId) else image
        images.append(_id_of(('row', get_rank(), position) if image is None else image))
        texts = texts_of(sample)
        ids = sample.get('caption_id')
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        ids = [None] * len(texts) if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]
        if not texts or len(ids) != len(texts):
            raise ValueError(
                f'training takes one caption an image or more, each with its caption_id; image '
                f'{position if image is None else image} has {len(texts)} captions and {len(ids)} caption ids'
            )
        for text, caption in zip(texts, ids, strict=True):
            if caption is None:
                caption = caption_key(text) if isinstance(text, str) else ('row', get_rank(), len(captions))
            captions.append(_id_of(caption))
            owner.append(position)
    return torch.tensor(images), torch.tensor(captions), torch.tensor(owner)


def _id_of(key: Any) -> int:
    """An int64 of a key, the same on all processes: a number is its own, any other becomes a negative one."""
    return int(key) if isinstance(key, Integral) else stable_id(key)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; each may have another count."""
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
