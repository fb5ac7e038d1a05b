from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms.utils import cache_randomness
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from galr_mm.datasets.transforms.geometric import keep_visible_boxes
from galr_mm.datasets.transforms.loading import LoadImageWithProposals
from galr_mm.integrations.open_clip import load_preprocess, resize_steps
from galr_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class OpenCLIPPreprocess(LoadImageWithProposals):
    """Load an image and bring it to the size that an OpenCLIP model takes, with open_clip's own resampling.

    The first step of a pipeline, in place of :class:`galr_mm.LoadImageWithProposals`. Without ``scale`` it does what
    open_clip's ``preprocess_val`` does, up to normalization, which is the data preprocessor's; with it, a random crop
    of that fraction of the image, as ``preprocess_train`` does. Boxes move along. The pixels that are resampled are
    those of :func:`galr_mm.imagery.read_image`: for RGB files what PIL reads; alpha, palettes and values of more than
    8 bit are resolved before.

    Required Keys:

    - img_path, or img (BGR uint8 (H, W, 3))
    - detections (optional)

    Added Keys:

    - gt_bboxes, gt_bboxes_labels, proposal_scores (of the detections)
    - img, BGR uint8 (S, S, 3), img_shape, ori_shape

    Args:
        model_name: the CLIP, as of the model; see ``galr_mm/integrations/open_clip.py``.
        pretrained: the weights, as of the model; a tag may bring its own interpolation.
        scale: smallest and largest fraction of the area that a random crop takes, at an aspect of 3/4 to 4/3.
        min_visible: drop boxes of which a smaller fraction of the area stays in the image.

    Raises:
        OSError: when the file cannot be read or decoded; names it.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        scale: tuple[float, float] | None = None,
        min_visible: float = 0.25,
    ) -> None:
        super().__init__()
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'scale is {scale}, expected two fractions of the area, 0 < smallest <= largest <= 1')
        self.model_name = model_name
        self.scale = scale
        self.min_visible = min_visible
        self.steps, crop_size = resize_steps(load_preprocess(model_name, pretrained))
        self.random_crop = None
        if scale is not None:
            self.random_crop = RandomResizedCrop(crop_size, scale, interpolation=self.steps[0].interpolation)

    @cache_randomness
    def _draw_window(self, crop: RandomResizedCrop, img: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random crop."""
        return crop.get_params(torch.from_numpy(img).permute(2, 0, 1), list(crop.scale), list(crop.ratio))

    def transform(self, results: dict) -> dict:
        """Load and resize one image."""
        results = super().transform(results)
        img = results['img']
        if self.random_crop is None:
            whole = self.steps[0](_to_pillow(img))
            done = self.steps[1](whole) if len(self.steps) > 1 else whole
            zoom = np.divide(whole.size, img.shape[1::-1])
            corner = np.round(np.subtract(whole.size, done.size) / 2)
        else:
            crop = self.random_crop
            top, left, height, width = self._draw_window(crop, img)
            part = _to_pillow(img[top : top + height, left : left + width])
            done = F.resize(part, crop.size, crop.interpolation)
            zoom = np.divide(done.size, (width, height))
            corner = np.multiply((left, top), zoom)
        results['img'] = np.ascontiguousarray(np.asarray(done)[..., ::-1])
        results['img_shape'] = results['img'].shape[:2]
        if 'gt_bboxes' in results:
            boxes = results['gt_bboxes'] * np.tile(zoom, 2) - np.tile(corner, 2)
            keep_visible_boxes(results, boxes.astype(np.float32), self.min_visible)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(model_name={self.model_name!r}, scale={self.scale})'


def _to_pillow(img: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(img[..., ::-1]))
