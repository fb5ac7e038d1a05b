from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor

from galr_mm.detection.detector import as_proposals


@torch.no_grad()
def encode_images(model: BaseModel, images: Sequence[str | Path | np.ndarray], batch_size: int = 8) -> Tensor:
    """L2-normalized embeddings (n, D) of raw images.

    A model with a ``proposal_generator`` finds their objects first, with the detector's own preprocessing; the result
    is that of proposals extracted before with the same weights and settings. Then the test pipeline of the model's
    config and the image tower run as in a test.

    Args:
        model: from :func:`galr_mm.apis.init_model` or :func:`~galr_mm.apis.get_model`, or mmpretrain's get_model; they
            keep the config.
        images: files, or BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.
        batch_size: images at a time.

    Raises:
        ValueError: when there is no image, one is no such array, or the model has no config.
        OSError: when a file cannot be read; names it.
    """
    if not len(images):
        raise ValueError('no images to encode')
    config = getattr(model, '_config', None)  # the name that mmpretrain's get_model gives it
    if config is None:
        raise ValueError('the model has no config; build it with galr_mm.apis.init_model(config, checkpoint)')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    for number, image in enumerate(images):
        if isinstance(image, np.ndarray) and (
            image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
        ):
            raise ValueError(f'image {number} is an array of {image.dtype} {image.shape}, expected BGR uint8 (H, W, 3)')
        if not isinstance(image, np.ndarray) and not Path(image).is_file():
            raise FileNotFoundError(f'no image at {image}')
    with DefaultScope.overwrite_default_scope('mmengine'):
        pipeline = Compose(config.test_dataloader.dataset.pipeline)
    generator = getattr(model, 'proposal_generator', None)
    embeddings = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        samples = [dict(img=p) if isinstance(p, np.ndarray) else dict(img_path=str(p)) for p in part]
        if generator is not None:
            for sample, found in zip(samples, generator(part), strict=True):
                sample.update(as_proposals(found))
        batch = model.data_preprocessor(default_collate([pipeline(sample) for sample in samples]), False)
        embeddings.append(model.extract_feat(batch['images'], batch['data_samples'])['image_feat'])
    return torch.cat(embeddings)
