"""Proposals of another framework: ``python tools/dataset_converters/coco_results.py RESULTS IMAGES --out FILE``.

RESULTS is a COCO results file, a list of ``{image_id, category_id, bbox: [x, y, w, h] in pixels, score}``; IMAGES is a
COCO json with ``images`` (id, file_name, width, height) and ``categories`` (id, name). Images without results have no
objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from galr_mm.detection import parse_coco, write_coco
from galr_mm.detection.coco import CocoContent
from galr_mm.detection.extraction import Settings
from galr_mm.messages import shorten
from galr_mm.utils.io import read_json


def convert(results: object, images: object, score_thr: float, max_per_image: int, source: Path) -> CocoContent:
    """The highest-scoring objects of each image, clipped to it.

    Raises:
        ValueError: when a setting makes no sense, or a result names an image or category that is not listed or lacks
            a field.
    """
    if not isinstance(results, list) or not isinstance(images, dict) or not {'images', 'categories'} <= images.keys():
        raise ValueError('expected a list of results, and a COCO json with images and categories')
    Settings(score_thr=score_thr, max_per_image=max_per_image).check()
    for index, result in enumerate(results):
        missing = [key for key in ('image_id', 'category_id', 'bbox', 'score') if key not in result]
        if missing:
            raise ValueError(f'result {index} has no {", ".join(missing)}: {shorten(result)}')
    content = parse_coco(images | dict(annotations=results), source)
    filtered = {name: found.filtered(score_thr, max_per_image) for name, found in content.detections.items()}
    return content._replace(detections=filtered)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path)
    parser.add_argument('images', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='COCO json to write, e.g. data/ucm/proposals.json')
    parser.add_argument('--score-thr', type=float, default=0.1, help='leave out lower scores (default 0.1)')
    parser.add_argument('--max-per-image', type=int, default=100)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing --out')
    args = parser.parse_args(argv)
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f'{args.out} exists; --overwrite replaces it')
    try:
        results, images = (read_json(path) for path in (args.results, args.images))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    try:
        classes, detections = convert(results, images, args.score_thr, args.max_per_image, args.results)
    except (ValueError, TypeError) as error:
        raise SystemExit(f'{args.results}: {error}') from error
    try:
        write_coco(args.out, detections.items(), classes)
    except OSError as error:
        raise SystemExit(f'--out: cannot write {args.out} ({error})') from error
    print(f'proposals of {len(detections)} images written to {args.out}')
