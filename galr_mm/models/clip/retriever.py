from __future__ import annotations

from torch import nn

from galr_mm.integrations.open_clip import brings_weights, load_clip
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
        precision: of the image tower, see :class:`galr_mm.DualEncoder`.
        micro_batch: images a forward pass in training, see :class:`galr_mm.DualEncoder`.
        loss: by default :class:`galr_mm.ContrastiveLoss` that starts from the model's own temperature.

    Raises:
        FileNotFoundError: when weights are not available; says what was tried.
        ValueError: when a name or an option is unknown, or weights do not fit.
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
        micro_batch: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        clip = load_clip(model_name, pretrained)
        image = OpenCLIPBackbone(
            model_name,
            pretrained,
            out_indices=(),
            lock=lock_image,
            unlocked_groups=lock_image_unlocked_groups,
            grad_checkpointing=grad_checkpointing,
            clip=clip,
        )
        text = OpenCLIPTextEncoder(
            model_name,
            lock=lock_text,
            unlocked_layers=lock_text_unlocked_layers,
            grad_checkpointing=grad_checkpointing,
            clip=clip,
        )
        super().__init__(
            image,
            CLIPEmbedding(),
            text,
            ContrastiveLoss(temperature=text.temperature) if loss is None else loss,
            precision=precision,
            data_preprocessor=data_preprocessor,
            micro_batch=micro_batch,
            init_cfg=init_cfg,
        )
        # a subclass may add parts of its own, and says so itself
        own = type(self) is OpenCLIPRetriever
        self.weights_from_files = own and (pretrained is not None or brings_weights(model_name))
