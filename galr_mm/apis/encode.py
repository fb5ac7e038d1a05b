from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor


@torch.no_grad()
def encode_images(model: BaseModel, images: Sequence[str | Path | np.ndarray], batch_size: int = 8) -> Tensor:
    """L2-normalized embeddings (n, D) of raw images.

    A model whose local branch has a ``detector`` finds their objects first, with the detector's own preprocessing; the
    result is that of proposals extracted before with the same weights and settings. Then the test pipeline of the
    model's config and the image tower run as in a test.

    Args:
        model: from :func:`galr_mm.apis.init_model` or :func:`~galr_mm.apis.get_model`, or mmpretrain's get_model; they
            keep the config.
        images: files, or BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.
        batch_size: images at a time.

    Raises:
        ValueError: when there is no image, one is an array of another kind, or the model has no config.
        OSError: when a file cannot be read; names it.
    """
    if not len(images):
        raise ValueError('no images to encode')
    config = getattr(model, '_config', None)  # the name that mmpretrain's get_model gives it
    if config is None:
        raise ValueError('the model has no config; build it with galr_mm.apis.init_model(config, checkpoint)')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    for index, image in enumerate(images):
        if isinstance(image, np.ndarray) and (
            image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
        ):
            raise ValueError(f'image {index} is an array of {image.dtype} {image.shape}, expected BGR uint8 (H, W, 3)')
        if not isinstance(image, np.ndarray) and not Path(image).is_file():
            raise FileNotFoundError(f'no image at {image}')
    with DefaultScope.overwrite_default_scope('mmengine'):
        pipeline = Compose(config.test_dataloader.dataset.pipeline)
    detector = getattr(getattr(model, 'local', None), 'detector', None)
    embeddings = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        samples: list[dict[str, object]] = [
            dict(img=image) if isinstance(image, np.ndarray) else dict(img_path=str(image)) for image in part
        ]
        if detector is not None:
            for sample, detections in zip(samples, detector(part), strict=True):
                sample['detections'] = detections
        batch = model.data_preprocessor(default_collate([pipeline(sample) for sample in samples]), False)
        embeddings.append(model.extract_feat(batch['images'], batch['data_samples'])['image_feat'])
    return torch.cat(embeddings)


@torch.no_grad()
def encode_texts(model: BaseModel, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """L2-normalized embeddings (n, D) of captions, comparable to those of :func:`encode_images` by their dot product.

    Args:
        model: a retriever in evaluation, see :func:`encode_images`.
        texts: captions, as they are written.
        batch_size: captions at a time.

    Raises:
        TypeError: when ``texts`` is a single string.
        ValueError: when there is no caption.
    """
    if isinstance(texts, str):
        raise TypeError(f'expected a list of captions, got one string: {texts!r}')
    if not len(texts):
        raise ValueError('no captions to encode')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    return torch.cat(
        [model.encode_text(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    )
