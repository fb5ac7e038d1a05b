from __future__ import annotations

import copy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from galr_mm.registry import MODELS


def init_model(
    config: str | Path | Config, checkpoint: str | Path | None = None, device: str | torch.device = 'cpu'
) -> BaseModel:
    """Build a model from a config, load weights and switch it to evaluation.

    The global default scope is left as it was.

    Args:
        config: a config or its path.
        checkpoint: file or http(s) link of what training saved or a converter wrote; all weights must be there.
        device: where the model goes.

    Raises:
        FileNotFoundError: when config or checkpoint is missing.
        RuntimeError: when the weights do not fit the model; lists them.
    """
    for path in (config, checkpoint):
        if (
            isinstance(path, (str, Path))
            and not str(path).startswith(('http://', 'https://'))
            and not Path(path).is_file()
        ):
            raise FileNotFoundError(f'no file at {path}')
    if not isinstance(config, Config):
        config = Config.fromfile(config)
    cfg = copy.deepcopy(config.model)
    cfg.setdefault('data_preprocessor', config.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(cfg)
    if checkpoint is not None:
        load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
    model.cfg = model._config = config  # mmpretrain's inferencers look for the second
    return model.to(device).eval()
