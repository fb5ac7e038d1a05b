"""Proposals from an MMDet detector: ``python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out FILE``.

IMAGES is a folder or a data set json (Karpathy-style or COCO). The result is one COCO json. A run that was interrupted
goes on where it stopped when it is started again with the same settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from galr_mm.proposals.extraction import extract_proposals
from galr_mm.utils.install_check import REBUILD_MMCV, mmcv_ops_error


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='MMDet config')
    parser.add_argument('checkpoint', type=Path, help='its weights')
    parser.add_argument('images', type=Path, help='folder, or Karpathy-style / COCO json')
    parser.add_argument('--out', type=Path, required=True, help='COCO json to write, e.g. data/ucm/proposals.json')
    parser.add_argument('--img-root', type=Path, help='pictures of a json (default: images/ beside it)')
    parser.add_argument('--score-thr', type=float, default=0.1, help='leave out lower scores (default 0.1)')
    parser.add_argument('--max-per-image', type=int, default=100)
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--num-workers', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing --out')
    args = parser.parse_args()
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f'{args.out} exists; --overwrite replaces it')
    if args.batch_size < 1 or args.max_per_image < 1 or not 0 <= args.score_thr <= 1:
        parser.error('--batch-size and --max-per-image must be 1 or more, --score-thr between 0 and 1')
    error = mmcv_ops_error()
    if error:
        raise SystemExit(f"detectors need mmcv's compiled ops ({error}). Mend it with:\n  {REBUILD_MMCV}")
    options = {key: value for key, value in vars(args).items() if key not in ('images', 'overwrite')}
    try:
        content = extract_proposals(source=args.images, **options)
    except (OSError, ValueError) as failure:
        raise SystemExit(str(failure)) from failure
    empty = len(content['images']) - len({a['image_id'] for a in content['annotations']})
    print(
        f'{len(content["annotations"])} objects in {len(content["images"])} pictures ({empty} without any) '
        f'written to {args.out}'
    )
    unreadable = content['info']['unreadable']
    for name, reason in unreadable.items():
        print(f'could not be read: {name} ({reason})', file=sys.stderr)
    if unreadable:
        raise SystemExit(f'{len(unreadable)} pictures could not be read; they are left out')


if __name__ == '__main__':
    main()
