from __future__ import annotations

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio

from galr_mm.imagery.header import Header, read_bytes_header
from galr_mm.imagery.orientation import swaps_sides, upright_boxes
from galr_mm.imagery.pixels import read_image
from galr_mm.registry import TRANSFORMS
from galr_mm.structures import Detections
from galr_mm.utils.logging import warn_once


def fit_proposals(results: dict) -> None:
    """Turn ``detections`` into the keys that mmcv's transforms move along, in pixels of an image of ``img_shape``.

    Detections on the stored image, where EXIF data says that it is to be rotated by a quarter, are rotated along.
    """
    if 'detections' in results:
        found, shape = results.pop('detections'), results['img_shape'][:2]
        if len(found) and not _same_aspect(found.image_size, shape) and 'img_path' in results:
            found = _fit_to_file(found, results['img_path'])
        found = found.scaled_to(shape)
        results['gt_bboxes'] = found.boxes.numpy()
        results['gt_bboxes_labels'] = found.labels.numpy()
        results['proposal_scores'] = found.scores.numpy()


def fit_of_sizes(proposed: tuple[int, int], header: Header | None) -> str:
    """How proposals for an image of this (height, width) come onto the file.

    'equal', 'scaled' from another resolution, 'rotated' along with a file whose EXIF data says so, or 'stretched'.
    """
    if header is None or proposed == header.image_size:
        return 'equal'
    if _same_aspect(proposed, header.image_size):
        return 'scaled'
    rotated = swaps_sides(header.orientation) and _same_aspect(proposed, header.stored_size)
    return 'rotated' if rotated else 'stretched'


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is the other at another resolution, sides rounded to whole pixels."""
    (height, width), (other_height, other_width) = size, other
    return abs(height * other_width - width * other_height) <= max(*size, *other)


def _fit_to_file(found: Detections, path: str) -> Detections:
    """Detections of another aspect ratio than the image has now: rotated where they are for the file as stored."""
    header = read_bytes_header(fileio.get(path))
    fit = fit_of_sizes(found.image_size, header)
    if header is not None and fit == 'rotated':
        boxes = upright_boxes(found.boxes.numpy(), found.image_size, header.orientation)
        return Detections(boxes, found.scores, found.labels, found.image_size[::-1])
    if header is not None and fit == 'stretched':
        warn_once(
            'another aspect ratio',
            f'{path} is {header.image_size} (height, width), its proposals are for {found.image_size}: their boxes are '
            'stretched to it (logged once; tools/dataset_converters/verify_dataset.py counts such images)',
        )
    return found


@TRANSFORMS.register_module()
class LoadImageWithProposals(LoadImageFromFile):
    """Load an image as everywhere here, see :func:`galr_mm.imagery.read_image`, and fit proposals to its size.

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

    Args:
        to_float32: give float32 pixels in place of uint8.
        backend_args: of mmengine's file backend.

    Raises:
        OSError: when the file cannot be read or decoded; names it.
        ImportError: when it is a TIFF that needs tifffile, which is not installed; names both.
    """

    def __init__(self, to_float32: bool = False, backend_args: dict | None = None) -> None:
        super().__init__(to_float32, backend_args=backend_args)

    def transform(self, results: dict) -> dict:
        """Load one image as BGR uint8 (H, W, 3)."""
        if results.get('img') is None:
            if 'img_path' not in results:
                raise KeyError('img_path')  # a query without an image: mmpretrain's inferencers skip this step then
            try:
                results['img'] = read_image(results['img_path'], self.backend_args)
            except OSError as error:
                raise OSError(
                    f'{error}; tools/dataset_converters/verify_dataset.py CONFIG lists all images of a set that cannot '
                    'be read, docs/datasets.md says where to get them'
                ) from error
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        if self.to_float32:
            results['img'] = results['img'].astype(np.float32)
        fit_proposals(results)
        return results
