from __future__ import annotations

from mmcv.transforms import LoadImageFromFile

from galr_mm.registry import TRANSFORMS


def fit_proposals(results: dict) -> None:
    """Turn ``detections`` into the keys that mmcv's transforms move along, in pixels of an image of ``img_shape``."""
    if 'detections' in results:
        found = results.pop('detections').scaled_to(results['img_shape'][:2])
        results['gt_bboxes'] = found.boxes.numpy()
        results['gt_bboxes_labels'] = found.labels.numpy()
        results['proposal_scores'] = found.scores.numpy()


@TRANSFORMS.register_module()
class LoadImageWithProposals(LoadImageFromFile):
    """mmcv's LoadImageFromFile that names the image it cannot read and fits proposals to the image's size.

    Proposals may have been found on an image of another resolution; their boxes are scaled to this one's. A sample
    that brings its image along, BGR uint8 (H, W, 3), is not loaded.

    Required Keys:

    - img_path, or img
    - detections (optional)

    Removed Keys:

    - detections

    Added Keys:

    - img, img_shape, ori_shape
    - gt_bboxes (n, 4), gt_bboxes_labels (n,) and proposal_scores (n,), where there are detections

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
