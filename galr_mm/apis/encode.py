from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from galr_mm.functional.checks import check_whole
from galr_mm.imagery import list_images
from galr_mm.imagery.pillow import read_deep
from galr_mm.messages import shorten
from galr_mm.models.retrievers.dual_encoder import evaluating
from galr_mm.models.text import TokenizedTextEncoder
from galr_mm.models.text.tokenized import check_texts
from galr_mm.utils.config import datasets_of
from galr_mm.utils.wrappers import unwrapped

ImageLike: TypeAlias = str | Path | np.ndarray | Image.Image
Pipeline: TypeAlias = Sequence[dict[str, Any]] | Callable[[dict[str, Any]], dict[str, Any]]
A_PIPELINE = (
    "pipeline=[dict(type='galr_mm.LoadImageWithProposals'), dict(type='mmengine.Resize', scale=(256, 256)), "
    "dict(type='galr_mm.PackRetrievalInputs')], with the size it was trained with"
)
A_PREPROCESSOR = (
    "data_preprocessor=dict(type='mmpretrain.MultiModalDataPreprocessor', mean=[123.675, 116.28, 103.53], "
    'std=[58.395, 57.12, 57.375], to_rgb=True), with the values it was trained with'
)


@torch.no_grad()
def encode_images(
    model: BaseModel,
    images: ImageLike | Iterable[ImageLike],
    batch_size: int = 8,
    pipeline: Pipeline | None = None,
    progress: bool | None = None,
) -> Tensor:
    """L2-normalized embeddings (n, D) of raw images, without gradients.

    A model whose local branch has a ``detector`` finds their objects first, with the detector's own preprocessing; the
    result is that of proposals extracted before with the same weights and settings. Then the test pipeline and the
    image tower run as in a test: the model is in evaluation meanwhile, and afterwards in the mode it was in.

    Args:
        model: any retriever of this package, or mmpretrain's get_model.
        images: a folder, whose images come in the order of :func:`galr_mm.imagery.list_images`; or files, BGR uint8
            arrays (H, W, 3) as mmcv.imread gives them and PIL images, one or many.
        batch_size: images at a time.
        pipeline: transforms, configs of them or a callable, that take ``dict(img_path=...)`` or ``dict(img=...)`` and
            give what the model takes. By default those of the test of the model's config, which
            :func:`~galr_mm.apis.init_model` and ``get_model`` keep, or for an OpenCLIP model without a config its own.
        progress: show a bar; None shows one where standard error is a terminal.

    Raises:
        ValueError: when there is no image, one is an array of another kind, or a PIL image that was changed and comes
            from a file of more than 8 bit (an unchanged one is read as its file is), or the model has no pipeline or no
            data preprocessor; says what to pass.
        TypeError: when an image is something else, or ``images`` is a mapping, a table or no list.
        OSError: when a file cannot be read; names it.
    """
    given = _listed(images)
    check_whole('batch_size', batch_size)
    model = unwrapped(model)
    steps = _pipeline_of(model, pipeline)
    detector = getattr(getattr(model, 'local', None), 'detector', None)
    embeddings = []
    with evaluating(model):
        for part in _batches(given, batch_size, progress, 'image'):
            arrays = [_opened(image) for image in part]
            samples: list[dict[str, object]] = [
                dict(img=image) if isinstance(image, np.ndarray) else dict(img_path=image) for image in arrays
            ]
            if detector is not None:
                for sample, detections in zip(samples, detector(arrays), strict=True):
                    sample['detections'] = detections
            batch = model.data_preprocessor(default_collate([steps(sample) for sample in samples]), False)
            if 'images' not in batch:  # mmengine's own, which does not normalize
                raise ValueError(
                    f'the model has no data preprocessor that makes images (it has '
                    f'{type(model.data_preprocessor).__name__}); build it with {A_PREPROCESSOR}'
                )
            embeddings.append(model.extract_feat(batch['images'], batch['data_samples'])['image_feat'])
    return torch.cat(embeddings)


@torch.no_grad()
def encode_texts(model: BaseModel, texts: Iterable[str], batch_size: int = 256, progress: bool | None = None) -> Tensor:
    """L2-normalized embeddings (n, D) of captions, comparable to those of :func:`encode_images` by their dot product.

    Words that the model does not know and captions that it cuts are logged once.

    Args:
        model: any retriever of this package; it is in evaluation meanwhile, and afterwards in the mode it was in.
        texts: captions, as they are written.
        batch_size: captions at a time.
        progress: show a bar; None shows one where standard error is a terminal.

    Raises:
        TypeError: when ``texts`` is a single string, a mapping, a table or no list, or a caption is no string.
        ValueError: when there is no caption, or one is blank, for a word-level encoder without any word; names it.
    """
    if isinstance(texts, str):
        raise TypeError(f'expected a list of captions, got one string: {shorten(texts)}')
    _refuse_others(texts, 'captions')
    given = list(texts)
    if not given:
        raise ValueError('no captions to encode')
    check_whole('batch_size', batch_size)
    model = unwrapped(model)
    encoder = getattr(model, 'text_encoder', None)
    check_texts(given)
    is_blank = encoder.is_blank if isinstance(encoder, TokenizedTextEncoder) else TokenizedTextEncoder.is_blank
    if (blank := next((index for index, text in enumerate(given) if is_blank(text)), None)) is not None:
        raise ValueError(f'caption {blank} is {shorten(given[blank])}, expected words')
    if isinstance(encoder, TokenizedTextEncoder):
        encoder.report_lost(given)
    with evaluating(model):
        return torch.cat([model.encode_text(part) for part in _batches(given, batch_size, progress, 'caption')])


def _refuse_others(given: object, what: str) -> None:
    """What is no list; and mappings and data frames, of which a loop sees the keys or the names of the columns."""
    if not isinstance(given, Iterable) and not hasattr(given, '__getitem__'):
        raise TypeError(f'expected a list of {what}, got {shorten(given)}')
    if isinstance(given, Mapping) or hasattr(type(given), 'columns'):
        raise TypeError(f'expected a list of {what}, got a {type(given).__name__}; pass its values or one column')


def _listed(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """One image or many as a list; of a folder its files. Files are there, arrays are images."""
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        folder, names = list_images(images)
        return [folder / name for name in names]
    one = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim == 3)
    if not one:
        _refuse_others(images, 'images')
    given: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]  # one is no iterable of images
    if not given:
        raise ValueError('no images to encode')
    for index, image in enumerate(given):
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(
                    f'image {index} is an array of {image.dtype} {image.shape}, expected BGR uint8 (H, W, 3)'
                )
        elif isinstance(image, Image.Image):
            try:
                pixels = read_deep(image)
            except (ValueError, ImportError) as error:
                raise type(error)(f'image {index}, a PIL image, {error}') from error
            if pixels is not None:
                given[index] = pixels
            elif image.mode in ('I', 'F') or image.mode.startswith('I;'):
                raise ValueError(f'image {index} is a PIL image of mode {image.mode}, expected 8 bit, such as RGB')
        elif not isinstance(image, (str, Path)):
            raise TypeError(f'image {index} is {shorten(image)}, expected a file, a PIL image or a BGR uint8 array')
        elif not Path(image).is_file():
            raise FileNotFoundError(f'no image at {image}')
    return given


def _opened(image: ImageLike) -> str | np.ndarray:
    """A file as it is named; a PIL image, set upright, as the BGR array that reading its file gives."""
    if isinstance(image, Image.Image):
        return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1])
    return image if isinstance(image, np.ndarray) else str(image)


def _pipeline_of(model: BaseModel, pipeline: Pipeline | None) -> Callable[[dict[str, Any]], Any]:
    if callable(pipeline):
        return pipeline
    if pipeline is None:
        config = getattr(model, '_config', None)  # the name that mmpretrain's get_model gives it
        loader = None if config is None else config.get('test_dataloader')
        pipeline = getattr(getattr(model, 'backbone', None), 'pipeline', None) if loader is None else None
        if loader is not None:
            pipeline = next(datasets_of(loader.dataset)).pipeline
    if pipeline is None:
        raise ValueError(
            'the model has no config with a test pipeline: build it with galr_mm.apis.init_model(config, checkpoint), '
            f'or pass {A_PIPELINE}'
        )
    with DefaultScope.overwrite_default_scope('mmengine'):
        return Compose(pipeline)


def _batches(items: list[Any], size: int, progress: bool | None, unit: str) -> Iterator[list[Any]]:
    """Parts of a list, with a bar."""
    with tqdm(total=len(items), unit=unit, disable=None if progress is None else not progress) as bar:
        for start in range(0, len(items), int(size)):
            part = items[start : start + int(size)]
            yield part
            bar.update(len(part))
