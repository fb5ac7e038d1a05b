from __future__ import annotations

from typing import Any

from torch import nn

from galr_mm.integrations.open_clip import load_clip
from galr_mm.models.clip.backbone import CLIPEmbedding, OpenCLIPBackbone
from galr_mm.models.clip.text_encoder import OpenCLIPTextEncoder
from galr_mm.models.losses import ContrastiveLoss
from galr_mm.models.retrievers.dual_encoder import DualEncoder
from galr_mm.registry import MODELS


@MODELS.register_module()
class OpenCLIPRetriever(DualEncoder):
    """A whole OpenCLIP model as a dual encoder: zero-shot, fine-tuned, or with locked towers.

    Its embeddings are open_clip's own, L2-normalized. Images are normalized as the model wants them; the pipeline's
    ``galr_mm.OpenCLIPPreprocess`` makes them of its size. Options are called as those of open_clip's trainer.

    Args:
        model_name: of open_clip, a .json file, ``local-dir:...`` or ``hf-hub:...``; see
            ``galr_mm/integrations/open_clip.py``.
        pretrained: a tag of open_clip or a file (RemoteCLIP, GeoRSCLIP, ...); None starts from random weights.
        lock_image: freeze the image tower but for its last ``lock_image_unlocked_groups`` layer groups.
        lock_image_unlocked_groups: how many groups stay trainable.
        lock_text: freeze the text tower but for its last ``lock_text_unlocked_layers`` layers.
        lock_text_unlocked_layers: how many layers stay trainable.
        grad_checkpointing: compute activations anew in the backward pass, for less memory.
        precision: 'fp32' or 'amp_bf16'.
        loss: by default :class:`galr_mm.ContrastiveLoss` that starts from the model's own temperature.

    Raises:
        FileNotFoundError: when weights are not to be had; says what was tried.
        ValueError: when a name or an option is unknown, or weights do not fit.

    Example:
        >>> model = dict(type='galr_mm.OpenCLIPRetriever', model_name='ViT-B-32', pretrained='RemoteCLIP-ViT-B-32.pt')
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        lock_image: bool = False,
        lock_image_unlocked_groups: int = 0,
        lock_text: bool = False,
        lock_text_unlocked_layers: int = 0,
        grad_checkpointing: bool = False,
        precision: str = 'fp32',
        loss: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        clip = load_clip(model_name, pretrained)
        shared: dict[str, Any] = dict(clip=clip, grad_checkpointing=grad_checkpointing, precision=precision)
        image = OpenCLIPBackbone(out_indices=(), lock=lock_image, unlocked_groups=lock_image_unlocked_groups, **shared)
        text = OpenCLIPTextEncoder(model_name, lock=lock_text, unlocked_layers=lock_text_unlocked_layers, **shared)
        loss = ContrastiveLoss(temperature=text.temperature) if loss is None else loss
        super().__init__(image, CLIPEmbedding(), text, loss, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
