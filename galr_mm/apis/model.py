from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from galr_mm.integrations.checkpoints import is_link, read_weights
from galr_mm.messages import clip, shorten
from galr_mm.models.text import words_of
from galr_mm.registry import MODELS
from galr_mm.utils.config import read_config_file


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device = 'cpu',
    cfg_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> BaseModel:
    """Build a model from a config, load weights and switch it to evaluation.

    The config and the global default scope are left as they were. :func:`galr_mm.apis.get_model` is the same for a
    shipped config by its name.

    Args:
        config: a config or its path.
        checkpoint: file or http(s) link of what training saved or a converter wrote, or a .safetensors file; all
            weights must be there. A vocabulary that it carries takes the place of the config's, whose file need not
            be there.
        device: where the model goes.
        cfg_options: merged into the config, values by their dotted names as in ``--cfg-options``, such as
            ``{'model.pretrained': 'clip.pt'}``.
        **overrides: merged into ``config.model``, such as ``fusion=dict(mode='sum')``.

    Raises:
        FileNotFoundError: when config, checkpoint or vocabulary is missing.
        TypeError: when ``config`` is neither a config nor a path.
        ValueError: when the config has no model, or the checkpoint cannot be read or its weights are not finite; names
            it.
        RuntimeError: when the weights do not fit the model; lists them.
    """
    if not isinstance(config, Config):
        require_config(config, 'a config or its path')
        _require_file(config, 'config')
        config = read_config_file(config)
    if checkpoint is not None and not is_link(checkpoint):
        _require_file(checkpoint, 'checkpoint')
    if not isinstance(cfg_options or {}, Mapping):
        raise ValueError(
            f"cfg_options is {shorten(cfg_options)}, expected a dict such as {{'model.precision': 'fp32'}}"
        )
    if cfg_options or overrides:
        config = copy.deepcopy(config)
        config.merge_from_dict(dict(cfg_options or {}))
        config.merge_from_dict(dict(model=overrides))
    if not isinstance(config.get('model'), Mapping) or 'type' not in config.model:
        name = getattr(config, 'filename', None) or 'the config'
        raise ValueError(f'{name} has no model: expected model = dict(type=...), got {shorten(config.get("model"))}')
    cfg = copy.deepcopy(config.model)
    cfg.setdefault('data_preprocessor', config.get('data_preprocessor'))
    weights = None if checkpoint is None else read_weights(checkpoint)
    vocabulary = None if weights is None else words_of(weights)
    if vocabulary is not None and 'vocabulary' in cfg.get('text_encoder', {}):
        cfg.text_encoder.vocabulary = vocabulary
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(cfg)
    if weights is not None:
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:  # of two different models it is as long as a book
            raise RuntimeError(f'{checkpoint} does not fit the model: {clip(error, 1500)}') from None
        _require_finite(model, weights, checkpoint)
    model.cfg = model._config = config  # mmpretrain's inferencers look for the second
    return model.to(device).eval()


def require_config(config: object, expected: str) -> None:
    """Refuse what names no config.

    Raises:
        TypeError: says what it is and what was expected.
    """
    if not isinstance(config, (str, Path, Config)):
        raise TypeError(f'expected {expected}, got {shorten(config)}')


def _require_finite(model: BaseModel, weights: Mapping[str, Any], checkpoint: object) -> None:
    parameters = dict(model.named_parameters())
    for name, value in {**parameters, **dict(model.named_buffers())}.items():
        if name in weights and value.is_floating_point():
            bad = ~value.isfinite()
            if name not in parameters:  # attention masks are buffers of 0 and -inf
                bad &= value != -torch.inf
            if bad.any():
                raise ValueError(
                    f'{checkpoint} cannot be used: {int(bad.sum())} of {bad.numel()} values of its weight {name} are '
                    'NaN or infinite; take a checkpoint from before the training diverged'
                )


def _require_file(path: str | Path, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f'no {what} at {path}')
