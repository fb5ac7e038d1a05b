from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.structures import DataSample

from galr_mm.registry import TRANSFORMS
from galr_mm.structures import Detections


@TRANSFORMS.register_module()
class PackRetrievalInputs(BaseTransform):
    """Pack an image, its captions and its proposals for the model.

    Required Keys (each optional: a query may come without an image, a gallery image without text):

    - img, or features of a cache
    - text, text_id, caption_id, gt_text_id, gt_image_id
    - gt_bboxes, gt_bboxes_labels, proposal_scores

    Added Keys:

    - inputs: uint8 tensor (3, H, W), the channels in the order they were loaded in; or the features (C, H, W)
    - data_samples: DataSample with the text fields as they are, the meta information, and with boxes also
      ``proposals``, an InstanceData of bboxes (n, 4) xyxy in pixels, scores (n,) in descending order and labels (n,)

    Args:
        meta_keys: entries kept as meta information where they are there.
    """

    text_keys = ('text', 'text_id', 'caption_id', 'gt_text_id', 'gt_image_id')

    def __init__(
        self,
        meta_keys: tuple[str, ...] = ('image_id', 'img_path', 'file_name', 'ori_shape', 'img_shape', 'sample_idx'),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack one sample."""
        packed = {}
        sample = DataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'img' in results:
            img = results['img'] if results['img'].ndim == 3 else results['img'][..., None]
            packed['inputs'] = torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))
            sample.set_metainfo({'img_shape': img.shape[:2]})
        elif 'features' in results:
            packed['inputs'] = results['features']
        for key in self.text_keys:
            if key in results:
                setattr(sample, key, results[key])
        if 'gt_bboxes' in results:
            labels = results['gt_bboxes_labels']
            scores = results.get('proposal_scores', np.ones(len(labels)))
            shape = results['img_shape'] if 'img' not in results else results['img'].shape
            sample.proposals = Detections(results['gt_bboxes'], scores, labels, shape[:2]).to_instances()
        packed['data_samples'] = sample
        return packed

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'
