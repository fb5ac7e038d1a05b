"""Proposals from an MMDet detector: ``python tools/extract_proposals.py DET_CONFIG DET_CKPT IMAGES --out FILE``.

IMAGES is a folder or a data set json (Karpathy-style or COCO). The result is one COCO json. A run that was interrupted
resumes where it stopped when it is started again with the same settings. Several processes or GPUs:
``torchrun --nproc_per_node=N tools/extract_proposals.py ... --launcher pytorch``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.device import get_device

from galr_mm.cli.common import close_processes, read_config
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.detection.coco import describe_dropped
from galr_mm.detection.extraction import Settings, extract_proposals
from galr_mm.integrations.installation import REBUILD_MMCV, mmcv_ops_error, require_module
from galr_mm.utils.allocator import keep_freed_memory


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='MMDet config')
    parser.add_argument('checkpoint', type=Path, help='its weights')
    parser.add_argument('images', type=Path, help='folder, or Karpathy-style / COCO json')
    parser.add_argument('--out', type=Path, required=True, help='COCO json to write, e.g. data/ucm/proposals.json')
    parser.add_argument('--img-root', type=Path, help='images of a json (default: images/ beside it)')
    parser.add_argument('--score-thr', type=float, default=0.1, help='leave out lower scores (default 0.1)')
    parser.add_argument('--max-per-image', type=int, default=100)
    parser.add_argument('--tile', type=int, help='cut images with a longer side into tiles of N x N pixels')
    parser.add_argument('--overlap', type=int, default=200, help='pixels that neighboring tiles share (default 200)')
    parser.add_argument(
        '--merge-iou', type=float, default=0.5, help='overlap at which objects of two tiles are one (default 0.5)'
    )
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--num-workers', type=int, default=2)
    parser.add_argument('--device', default=get_device(), help='default: the GPU where there is one')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing --out')
    args = parser.parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Read the command line and run."""
    if args.out.is_dir():
        raise SystemExit(f'--out is {args.out}, a folder; expected the name of a json file')
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f'{args.out} exists; --overwrite replaces it')
    if args.batch_size < 1 or args.num_workers < 0:
        raise SystemExit('--batch-size must be 1 or more, --num-workers 0 or more')
    require_module('mmdet', 'detect')
    read_config(str(args.config), None)  # for its message where the file is not a config
    error = mmcv_ops_error()
    if error:
        raise SystemExit(f"detectors need mmcv's compiled ops ({error}). Fix it with:\n  {REBUILD_MMCV}")
    device = args.device
    if args.launcher == 'pytorch':
        if 'RANK' not in os.environ:
            raise SystemExit('--launcher pytorch: start this tool by torchrun')
        torch.distributed.init_process_group('gloo')
        device = f'cuda:{os.environ["LOCAL_RANK"]}' if device == 'cuda' else device
    if device == 'cpu':
        keep_freed_memory()
    settings = Settings(**{name: getattr(args, name) for name in Settings._fields})
    content = extract_proposals(
        args.config,
        args.checkpoint,
        args.images,
        args.out,
        args.img_root,
        settings,
        args.batch_size,
        args.num_workers,
        device,
    )
    close_processes()
    if content is not None:
        report(content, args.out)


def report(content: dict, out: Path) -> None:
    """Say what was written; end with an error where images could not be read."""
    empty = len(content['images']) - len({a['image_id'] for a in content['annotations']})
    print(
        f'{len(content["annotations"])} objects in {len(content["images"])} images ({empty} without any) '
        f'written to {out}; {describe_dropped(content["info"]["dropped"])}'
    )
    unreadable = content['info']['unreadable']
    for name, reason in unreadable.items():
        print(f'could not be read: {name} ({reason})', file=sys.stderr)
    if unreadable:
        raise SystemExit(f'{len(unreadable)} images could not be read; they are left out')
