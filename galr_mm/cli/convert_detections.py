"""Proposals of another framework: ``python tools/dataset_converters/coco_results.py RESULTS IMAGES --out FILE``.

RESULTS is a COCO results file, a list of ``{image_id, category_id, bbox: [x, y, w, h] in pixels, score from 0 to
1}``; IMAGES is a
COCO json with ``images`` (id, file_name, width, height) and ``categories`` (id, name). Images without results have no
objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from galr_mm.cli.errors import one_line
from galr_mm.detection import parse_coco, write_coco
from galr_mm.detection.coco import CocoContent, describe_dropped
from galr_mm.detection.extraction import Settings
from galr_mm.messages import shorten
from galr_mm.utils.io import read_json


def convert(
    results: object, images: Mapping[str, Any], score_thr: float, max_per_image: int, source: Path
) -> CocoContent:
    """The highest-scoring objects of each image, clipped to it.

    Raises:
        ValueError: when a setting makes no sense, a result names an image or category that is not listed or lacks a
            field, or the results do not mean what COCO says, see :func:`galr_mm.detection.parse_coco`.
    """
    if not isinstance(results, list):
        raise ValueError(f'expected a list of results, got a {type(results).__name__}')
    Settings(score_thr=score_thr, max_per_image=max_per_image).check()
    for index, result in enumerate(results):
        fields = ('image_id', 'category_id', 'bbox', 'score')
        missing = [key for key in fields if not isinstance(result, dict) or key not in result]
        if missing:
            raise ValueError(f'result {index} has no {", ".join(missing)}: {shorten(result)}')
    content = parse_coco(dict(images, annotations=results), source, kind='result')
    dropped, filtered = content.dropped.copy(), {}
    for name, found in content.detections.items():
        filtered[name], why = found.filtered_and_counted(score_thr, max_per_image)
        dropped += why
    return content._replace(detections=filtered, dropped=dropped)


@one_line
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
    results, images = (read_json(path) for path in (args.results, args.images))
    if not isinstance(images, dict) or not {'images', 'categories'} <= images.keys():
        raise SystemExit(f'{args.images} is not a COCO json with images and categories')
    try:
        content = convert(results, images, args.score_thr, args.max_per_image, args.results)
    except (ValueError, TypeError) as error:
        raise SystemExit(str(error) if str(args.results) in str(error) else f'{args.results}: {error}') from error
    try:
        written = write_coco(args.out, content.detections.items(), content.classes)
    except OSError as error:
        raise SystemExit(f'--out: cannot write {args.out} ({error})') from error
    print(
        f'{len(written["annotations"])} objects in {len(written["images"])} images written to {args.out}; '
        f'{describe_dropped(content.dropped)}'
    )
