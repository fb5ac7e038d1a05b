"""A retriever as an archive needs it: what identifies it, and vectors of parts of images and of queries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from galr_mm.apis.encode import encode_images, encode_texts
from galr_mm.apis.hub import get_model, pretrained_models
from galr_mm.archive import Box, Encoded, ModelId, Piece
from galr_mm.archive.cutting import MAX_PIXELS, too_large
from galr_mm.imagery import SceneReading, Window, is_scene, open_scene
from galr_mm.imagery.files import SUFFIXES
from galr_mm.structures import Detections
from galr_mm.utils.config import datasets_of

FEATURES = 1  # rises when the same weights and settings give other vectors
# settings that say where weights come from, which are compared themselves, or that have no part in an embedding
NO_PART = {
    'checkpoint', 'config', 'data_root', 'init_cfg', 'loss', 'meta_keys', 'micro_batch', 'name_or_path', 'pretrained',
    'text_keys', 'train_cfg', 'vocabulary', 'word_vectors', '_scope_',
}  # fmt: skip

Query = str | Path | np.ndarray | Image.Image


class ArchiveModel:
    """A model with its identity.

    Args:
        model: built by :func:`galr_mm.apis.init_model` or :func:`~galr_mm.apis.get_model`; a name of
            :func:`~galr_mm.apis.list_models`; a config; None for the one that comes with the package.
        pretrained: checkpoint of a model that is not built. True takes weights that come with the package, or that the
            config itself names (CLIP).
        device: where the model goes; None leaves a built one where it is.

    Attributes:
        id: equal for models whose vectors are comparable.

    Raises:
        ValueError: when the model is not known, has no config or no weights.
        FileNotFoundError: when a config or a checkpoint is missing.
    """

    def __init__(
        self,
        model: BaseModel | str | Path | Config | None,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
    ) -> None:
        self.model = load(model, pretrained, device)
        config = getattr(self.model, '_config', None)
        if config is None:
            raise ValueError('the model has no config; build it with galr_mm.apis.init_model(config, checkpoint)')
        self.config: Config = config
        with DefaultScope.overwrite_default_scope('mmengine'):
            self.pipeline = Compose(next(datasets_of(config.test_dataloader.dataset)).pipeline)
        self.detector = getattr(getattr(self.model, 'local', None), 'detector', None)
        dim = encode_texts(self.model, ['a']).shape[1]
        source = Path(config.filename).name if getattr(config, 'filename', None) else 'a config without a file'
        self.id = ModelId(
            fingerprint(self.model, config), dim, f'{type(self.model).__name__} of {source}, {dim} values'
        )

    @torch.no_grad()
    def encode_pieces(self, pieces: Sequence[Piece]) -> list[Encoded | Exception]:
        """Vectors and objects of parts of images; for what cannot be prepared, why.

        An error of the model itself is raised: it would be that of all images.
        """
        found = self._detect(pieces)
        prepared: list[Any] = []
        for piece, detections in zip(pieces, found, strict=True):
            whole = isinstance(piece.content, Path)
            sample: dict[str, Any] = {'img_path': str(piece.content)} if whole else {'img': piece.content}
            if isinstance(detections, Detections):
                sample['detections'] = detections
            try:
                prepared.append(detections if isinstance(detections, Exception) else self.pipeline(sample))
            except Exception as error:  # decoders raise many kinds on broken files
                prepared.append(error)
        good = [sample for sample in prepared if not isinstance(sample, Exception)]
        vectors: Iterator[np.ndarray] = iter(())
        if good:
            batch = self.model.data_preprocessor(default_collate(good), False)
            vectors = iter(
                self.model.extract_feat(batch['images'], batch['data_samples'])['image_feat'].float().cpu().numpy()
            )
        return [
            sample if isinstance(sample, Exception) else Encoded(next(vectors), self._boxes(detections))
            for sample, detections in zip(prepared, found, strict=True)
        ]

    def _detect(self, pieces: Sequence[Piece]) -> Sequence[Detections | Exception | None]:
        if self.detector is None:
            return [None] * len(pieces)
        try:
            return self.detector([piece.content for piece in pieces])
        except OSError as error:  # of one of them, which is found out one at a time
            return [error] if len(pieces) == 1 else [self._detect([piece])[0] for piece in pieces]

    def _boxes(self, detections: Detections | Exception | None) -> tuple[Box, ...]:
        if self.detector is None or not isinstance(detections, Detections):
            return ()
        boxes = detections.boxes.double().round(decimals=2).tolist()
        rows = zip(boxes, detections.scores.tolist(), detections.labels.tolist(), strict=True)
        classes = self.detector.classes
        return tuple(
            Box(left, top, right, bottom, round(score, 5), classes[label])
            for (left, top, right, bottom), score, label in rows
        )

    def encode_queries(
        self,
        queries: Sequence[Query],
        batch_size: int = 8,
        scenes: SceneReading = SceneReading(),  # noqa: B008, it is frozen
    ) -> tuple[np.ndarray, list[bool]]:
        """Vectors (n, D) of sentences and images, and which of them are images.

        Args:
            queries: see :data:`Query`.
            batch_size: images at a time.
            scenes: how images that are scenes become pixels.

        Raises:
            TypeError, ValueError: for what is neither, names it.
            OSError: when an image cannot be read.
        """
        images = {index: image for index, query in enumerate(queries) if (image := as_image(query, index)) is not None}
        texts = {index: str(query) for index, query in enumerate(queries) if index not in images}
        vectors = np.empty((len(queries), self.id.dim), np.float32)
        if images:
            pixels = (pixels_of(image, scenes) for image in images.values())
            found = encode_images(self.model, pixels, batch_size, progress=False)
            vectors[list(images)] = found.float().cpu().numpy()
        if texts:
            vectors[list(texts)] = self.encode_sentences(list(texts.values()))
        return vectors, [index in images for index in range(len(queries))]

    def encode_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors (n, D) of sentences, however they end.

        Raises:
            ValueError: see :func:`galr_mm.apis.encode_texts`.
        """
        return encode_texts(self.model, sentences, progress=False).float().cpu().numpy()


def as_image(query: object, index: int = 0) -> Path | np.ndarray | Image.Image | None:
    """An image query as the model takes it; None for a sentence.

    A text that ends like the name of an image file is one.

    Raises:
        TypeError, ValueError: for what is neither an image nor a sentence.
    """
    if isinstance(query, str):
        if not query.strip():
            raise ValueError(f'query {index} is {query!r}, expected a sentence or an image')
        return Path(query) if os.path.splitext(query)[1].lower() in SUFFIXES else None
    if isinstance(query, (Path, np.ndarray, Image.Image)):
        return query
    raise TypeError(
        f'query {index} is a {type(query).__name__}, expected a sentence, or an image as a path, a BGR array or by PIL'
    )


def pixels_of(
    image: Path | np.ndarray | Image.Image,
    scenes: SceneReading = SceneReading(),  # noqa: B008, it is frozen
) -> Path | np.ndarray | Image.Image:
    """An image query; one that is a scene becomes pixels, read as the index reads it.

    Raises:
        OSError, ValueError: when a scene cannot be read, or is too large to be read whole; names it.
    """
    if not isinstance(image, Path) or not image.is_file() or not is_scene(image, scenes):
        return image
    with open_scene(image, scenes) as scene:
        if scene.height * scene.width > MAX_PIXELS:
            raise ValueError(f'{image}: {too_large(scene.height, scene.width, "cut a part out of it")}')
        return scene.read(Window(0, 0, scene.width, scene.height))


def load(
    model: BaseModel | str | Path | Config | None, pretrained: bool | str | Path, device: str | torch.device | None
) -> BaseModel:
    """Build a model where it is not built, with weights that mean something."""
    if isinstance(model, BaseModel):
        return model if device is None else model.to(device)
    if model is None:
        if not pretrained_models():
            raise ValueError('no model comes with this installation; name one, by a config and a checkpoint')
        model = pretrained_models()[0]  # the one that needs no other package
    if pretrained is not True:
        return get_model(model, pretrained, device)
    try:
        return get_model(model, True, device)
    except ValueError:  # no weights are published; its config may name files that hold all of them
        built = get_model(model, False, device)
        if not getattr(built, 'weights_from_files', False):
            raise
        return built


def fingerprint(model: nn.Module, config: Config) -> str:
    """A hash of all that vectors depend on: weights with those of frozen parts, and settings of towers and pipeline.

    Where weights lie has no part in it, nor have the names of folders.
    """
    digest = hashlib.blake2b(digest_size=32)
    parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in sorted(parts.items()):
        if not name.startswith('loss_module.'):
            digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    settings = dict(
        features=FEATURES,
        model=config.model,
        preprocessor=config.get('data_preprocessor'),
        pipeline=next(datasets_of(config.test_dataloader.dataset)).pipeline,
    )
    detector = getattr(getattr(model, 'local', None), 'detector', None)
    if detector is not None:  # its config may be a file, or come with its checkpoint
        settings['detector'] = [detector.adapter.cfg.model, detector.adapter.cfg.test_dataloader.dataset.pipeline]
    digest.update(json.dumps(_plain(settings), sort_keys=True).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Settings as json, without what has no part in an embedding and without folders."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in NO_PART}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, Path)):
        return os.path.basename(value)
    return value if isinstance(value, (bool, int, float, type(None))) else type(value).__name__
