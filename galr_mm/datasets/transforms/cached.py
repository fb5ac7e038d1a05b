from __future__ import annotations

from collections.abc import Sequence

from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.datasets.transforms.loading import fit_proposals
from galr_mm.datasets.transforms.symmetries import ViewTransform, move_boxes
from galr_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCachedFeatures(ViewTransform):
    """Take the features of an image from a cache, in place of loading, resizing and :class:`galr_mm.RandomD4`.

    With the same seed the views are those that RandomD4 would draw.

    Required Keys:

    - file_name
    - img_path
    - detections (optional)

    Removed Keys:

    - detections

    Added Keys:

    - features, float (C, H, W)
    - img_shape, the size that the image would have
    - gt_bboxes (n, 4), gt_bboxes_labels (n,) and proposal_scores (n,), where there are detections

    Args:
        folder: of ``tools/cache_features.py``.
        views: drawn with equal chances.

    Raises:
        FileNotFoundError, ValueError: when there is no complete cache, or it lacks a view.
    """

    def __init__(self, folder: str, views: Sequence[str] = ('identity',)) -> None:
        super().__init__(views)
        self.cache = FeatureCache(folder)
        absent = [view for view in self.views if view not in self.cache.meta['views']]
        if absent:
            raise ValueError(f'{folder} lacks the views {absent}; it holds {self.cache.meta["views"]}')

    def transform(self, results: dict) -> dict:
        """Take one image's features.

        Raises:
            KeyError, ValueError: for an image that is not in the cache, or is another one under its name.
        """
        self.cache.check(results['file_name'], results['img_path'])
        view = self.draw_view() if len(self.views) > 1 else self.views[0]
        results['img_shape'] = tuple(self.cache.meta['image_shape'])
        fit_proposals(results)
        move_boxes(results, view)
        results['features'] = self.cache.get(results['file_name'], view)
        return results
