from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmpretrain.apis
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmpretrain.apis.model import ModelHub
from modelindex.load_model_index import load

from galr_mm.apis.model import init_model, require_config
from galr_mm.messages import shorten

MIM = Path(__file__).resolve().parents[1] / '.mim'
WEIGHTS = MIM.with_name('weights')  # <name>.safetensors of models that come with the package


def register_models() -> frozenset[str]:
    """Tell mmpretrain's ModelHub about our model index and return our names; a second call changes nothing.

    Raises:
        ValueError: when another package has taken one of the names.
    """
    index = MIM / 'model-index.yml'
    names = frozenset(model.name.lower() for model in load(str(index)).models)
    # the hub refuses a name that it has, even when it is the same model
    if not all(ModelHub.has(name) for name in names):
        ModelHub.register_model_index(index, config_prefix=MIM)
    return names


NAMES = register_models()


def list_models(pattern: str | None = None, task: str | None = None) -> list[str]:
    """Names of the shipped configs, for :func:`get_model`.

    ``mmpretrain.list_models`` gives them too, among its own.

    Args:
        pattern: shell-style pattern that names begin with, such as 'galr' or '*ucm'.
        task: 'Text-To-Image Retrieval', 'Image-To-Text Retrieval' or 'Object Detection'.

    >>> list_models('galr_ucm')
    ['galr_ucm', 'galr_ucm_128px']
    """
    return [name for name in mmpretrain.apis.list_models(pattern, task=task) if name in NAMES]


def get_model(
    model: str | Path | Config,
    pretrained: bool | str | Path = False,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> BaseModel:
    """Build a shipped model by its name, or any model by its config, ready for inference.

    The arguments are those of ``mmpretrain.get_model``; the model is that of :func:`galr_mm.apis.init_model`, so all
    weights must be there and the global default scope is left as it was.

    Args:
        model: a name of :func:`list_models`, the path of a config (.py) or a config.
        pretrained: checkpoint whose weights are loaded. True takes those that come with the package
            (:func:`pretrained_models` names the models) or are published for the model.
        device: where the model goes; None is the CPU.
        cfg_options: merged into the config by dotted names, such as ``{'model.pretrained': 'clip.pt'}`` for the
            weights of an OpenCLIP model.
        **overrides: merged into ``config.model``, such as ``fusion=dict(mode='sum')``.

    Raises:
        TypeError: when ``model`` is neither a name, a path nor a config, or ``pretrained`` neither a bool nor a path.
        ValueError: for an unknown name, a config without a model, weights that are not finite, and for
            ``pretrained=True`` where no weights are published.
        FileNotFoundError: when a config, a checkpoint or a vocabulary is missing.
        RuntimeError: when the weights do not fit the model.
    """
    require_config(model, 'a name of galr_mm.apis.list_models(), a config or its path')
    metainfo = None
    config: str | Path | Config = model
    if not isinstance(model, (Config, Path)) and not model.endswith('.py'):
        if model.lower() not in NAMES:
            close = difflib.get_close_matches(model.lower(), NAMES)
            hint = f'; did you mean {" or ".join(close)}?' if close else '.'
            raise ValueError(f'galr_mm has no model {model!r}{hint} galr_mm.apis.list_models() gives all names')
        metainfo = ModelHub.get(model)
        config = metainfo.config
    if pretrained is not None and not isinstance(pretrained, (bool, str, os.PathLike)):
        raise TypeError(f'pretrained is {shorten(pretrained)}, expected True, False or a checkpoint')
    checkpoint = None if isinstance(pretrained, bool) else pretrained
    if pretrained is True:
        checkpoint = (_shipped(metainfo.name) or metainfo.weights) if metainfo else _load_from(config)
        if not checkpoint:
            raise ValueError(
                f'no weights are published for {metainfo.name if metainfo else "this config"}; train it and give the '
                'checkpoint as pretrained=PATH, or take one that comes with the package: '
                f'{", ".join(pretrained_models())}'
            )
    built = init_model(config, checkpoint, device or 'cpu', cfg_options, **overrides)
    built._metainfo = metainfo  # by which mmpretrain.inference_model finds the inferencer
    return built


def pretrained_models() -> list[str]:
    """Names of the models whose weights come with the package, for ``get_model(name, pretrained=True)``."""
    return sorted(path.stem for path in WEIGHTS.glob('*.safetensors'))


def _shipped(name: str) -> str | None:
    path = WEIGHTS / f'{name.lower()}.safetensors'
    return str(path) if path.is_file() else None


def _load_from(config: str | Path | Config) -> str | None:
    return (config if isinstance(config, Config) else Config.fromfile(config)).get('load_from')
