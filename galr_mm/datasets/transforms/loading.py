from __future__ import annotations

import numpy as np
from mmcv.transforms import LoadImageFromFile

from galr_mm.registry import TRANSFORMS


def fit_proposals(results: dict) -> None:
    """Scale boxes that were found on an image of ``proposal_img_shape`` to one of ``img_shape``."""
    if 'proposal_img_shape' in results:
        height, width = results.pop('proposal_img_shape')
        scale = np.asarray(results['img_shape'][::-1], np.float32) / np.asarray((width, height), np.float32)
        results['gt_bboxes'] = results['gt_bboxes'] * np.tile(scale, 2)


@TRANSFORMS.register_module()
class LoadImageWithProposals(LoadImageFromFile):
    """mmcv's LoadImageFromFile that names the image it cannot read and fits proposals to the image's size.

    Proposals may have been found on an image of another resolution; their boxes are scaled to this one's. A sample
    that brings its image along, BGR uint8 (H, W, 3), is not loaded.

    Required Keys:

    - img_path, or img
    - gt_bboxes, proposal_img_shape (optional)

    Modified Keys:

    - gt_bboxes (optional)

    Added Keys:

    - img, img_shape, ori_shape

    Raises:
        OSError: when the file cannot be read or decoded; names it.
    """

    def transform(self, results: dict) -> dict:
        """Load one image as BGR uint8 (H, W, 3)."""
        if results.get('img') is None and 'img_path' not in results:
            raise KeyError('img_path')  # a query without an image: mmpretrain's inferencers skip this step then
        path = results.get('img_path')
        try:
            if results.get('img') is None:
                results = super().transform(results)
            else:
                results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        except Exception as error:
            raise OSError(
                f'cannot read the image {path} ({type(error).__name__}: {" ".join(str(error).split())}); '
                'tools/dataset_converters/verify_dataset.py CONFIG lists all images of a set that cannot be read, '
                'docs/datasets.md says where to get them'
            ) from error
        fit_proposals(results)
        return results
