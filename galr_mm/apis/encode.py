from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor

from galr_mm.proposals.detection import as_proposals


@torch.no_grad()
def encode_pictures(model: BaseModel, pictures: Sequence[str | Path | np.ndarray], batch_size: int = 8) -> Tensor:
    """L2-normalised embeddings (n, D) of raw pictures.

    A model with a ``proposal_generator`` finds their objects first, with the detector's own preprocessing; the result
    is that of proposals extracted before with the same weights and settings. Then the test pipeline of the model's
    config and the picture tower run as in a test.

    Args:
        model: from :func:`galr_mm.apis.init_model` or :func:`~galr_mm.apis.get_model`, or mmpretrain's get_model; they
            keep the config.
        pictures: files, or BGR uint8 arrays (H, W, 3) as mmcv.imread gives them.
        batch_size: pictures at a time.

    Raises:
        ValueError: when there is no picture, one is no such array, or the model has no config.
        OSError: when a file cannot be read; names it.
    """
    if not len(pictures):
        raise ValueError('no pictures to encode')
    config = getattr(model, '_config', None)  # the name that mmpretrain's get_model gives it
    if config is None:
        raise ValueError('the model has no config; build it with galr_mm.apis.init_model(config, checkpoint)')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}, expected 1 or more')
    for number, picture in enumerate(pictures):
        if isinstance(picture, np.ndarray) and (
            picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size
        ):
            raise ValueError(
                f'picture {number} is an array of {picture.dtype} {picture.shape}, expected BGR uint8 (H, W, 3)'
            )
        if not isinstance(picture, np.ndarray) and not Path(picture).is_file():
            raise FileNotFoundError(f'no picture at {picture}')
    with DefaultScope.overwrite_default_scope('mmengine'):
        pipeline = Compose(config.test_dataloader.dataset.pipeline)
    generator = getattr(model, 'proposal_generator', None)
    embeddings = []
    for start in range(0, len(pictures), batch_size):
        part = pictures[start : start + batch_size]
        samples = [dict(img=p) if isinstance(p, np.ndarray) else dict(img_path=str(p)) for p in part]
        if generator is not None:
            for sample, found in zip(samples, generator(part), strict=True):
                sample.update(as_proposals(found))
        batch = model.data_preprocessor(default_collate([pipeline(sample) for sample in samples]), False)
        embeddings.append(model.extract_feat(batch['images'], batch['data_samples'])['image_feat'])
    return torch.cat(embeddings)
