from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file
from torch import Tensor

from galr_mm.models.text import words_of
from galr_mm.registry import MODELS
from galr_mm.utils.config import read_config_file


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device = 'cpu',
    **overrides: Any,
) -> BaseModel:
    """Build a model from a config, load weights and switch it to evaluation.

    The config and the global default scope are left as they were. :func:`galr_mm.apis.get_model` is the same for a
    shipped config by its name.

    Args:
        config: a config or its path.
        checkpoint: file or http(s) link of what training saved or a converter wrote, or a .safetensors file; all
            weights must be there. A vocabulary that it carries takes the place of the config's.
        device: where the model goes.
        **overrides: merged into ``config.model``, such as ``fusion=dict(mode='sum')``.

    Raises:
        FileNotFoundError: when config or checkpoint is missing.
        RuntimeError: when the weights do not fit the model; lists them.
    """
    if not isinstance(config, Config):
        _require_file(config, 'config')
        config = read_config_file(config)
    if checkpoint is not None and not str(checkpoint).startswith(('http://', 'https://')):
        _require_file(checkpoint, 'checkpoint')
    if overrides:
        config = copy.deepcopy(config)
        config.merge_from_dict(dict(model=overrides))
    cfg = copy.deepcopy(config.model)
    cfg.setdefault('data_preprocessor', config.get('data_preprocessor'))
    weights = None if checkpoint is None else load_weights(checkpoint)
    vocabulary = None if weights is None else words_of(weights)
    if vocabulary is not None and 'vocabulary' in cfg.get('text_encoder', {}):
        cfg.text_encoder.vocabulary = vocabulary
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(cfg)
    if weights is not None:
        model.load_state_dict(weights, strict=True)
    model.cfg = model._config = config  # mmpretrain's inferencers look for the second
    return model.to(device).eval()


def load_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """Weights of a checkpoint by name: what mmengine saved, or a .safetensors file."""
    if str(checkpoint).endswith('.safetensors'):
        return load_file(str(checkpoint))
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    weights = loaded.get('state_dict', loaded)
    return {name.removeprefix('module.'): value for name, value in weights.items()}


def _require_file(path: str | Path, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f'no {what} at {path}')
