"""Proposals of another framework: ``python tools/dataset_converters/coco_results.py RESULTS IMAGES --out FILE``.

RESULTS is a COCO results file, a list of ``{image_id, category_id, bbox: [x, y, w, h] in pixels, score}``; IMAGES is a
COCO json with ``images`` (id, file_name, width, height) and ``categories`` (id, name). Images without results have no
objects.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from galr_mm.detection import ProposalSet
from galr_mm.detection.extraction import Settings
from galr_mm.utils.io import write_text


def convert(results: list, images: dict, score_thr: float, max_per_image: int) -> dict:
    """COCO json of proposals, the best-scored of each image first.

    Raises:
        ValueError: when a setting makes no sense, or a result names an image or category that is not listed or lacks
            a field.
    """
    if not isinstance(results, list) or not isinstance(images, dict) or not {'images', 'categories'} <= images.keys():
        raise ValueError('expected a list of results, and a COCO json with images and categories')
    Settings(score_thr=score_thr, max_per_image=max_per_image).check()
    known, categories = ({entry['id'] for entry in images[key]} for key in ('images', 'categories'))
    found = defaultdict(list)
    for number, result in enumerate(results):
        missing = [key for key in ('image_id', 'category_id', 'bbox', 'score') if key not in result]
        if missing:
            raise ValueError(f'result {number} has no {", ".join(missing)}: {result}')
        if result['image_id'] not in known or result['category_id'] not in categories:
            raise ValueError(
                f'result {number} has image_id {result["image_id"]!r} and category_id {result["category_id"]!r}, which '
                'the images file does not list'
            )
        if result['score'] >= score_thr:
            found[result['image_id']].append(result)
    annotations = []
    for image in images['images']:
        best = sorted(found[image['id']], key=lambda result: -result['score'])[:max_per_image]
        for result in best:
            fields = {key: result[key] for key in ('image_id', 'category_id', 'bbox', 'score')}
            area = result['bbox'][2] * result['bbox'][3]
            annotations.append(dict(id=len(annotations) + 1, area=area, iscrowd=0, **fields))
    return dict(images=images['images'], categories=images['categories'], annotations=annotations)


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
        contents = [json.loads(path.read_text(encoding='utf-8')) for path in (args.results, args.images)]
        text = json.dumps(convert(*contents, args.score_thr, args.max_per_image))
        with tempfile.TemporaryDirectory() as folder:  # what cannot be read back is not written
            write_text(Path(folder) / args.out.name, text)
            proposals = ProposalSet(Path(folder) / args.out.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f'{args.results}: {error}') from error
    write_text(args.out, text)
    print(f'proposals of {len(proposals)} images written to {args.out}')
