"""Compute what the frozen part of a model gives once: ``python tools/cache_features.py CONFIG --out DIR``.

``tools/train.py CONFIG --feature-cache DIR`` then trains the rest without images, as often as you like. An interrupted
run goes on when it is started again.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmengine.device import get_device

from galr_mm.cli.common import ConfigOptions, read_config
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.datasets.feature_cache import DTYPES
from galr_mm.datasets.transforms.symmetries import VIEWS
from galr_mm.engine.fill_feature_cache import cache_features
from galr_mm.utils.allocator import keep_freed_memory


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the training')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to fill')
    parser.add_argument(
        '--stage',
        help="cut after this stage of the backbone, or 'pooled' for the mean of its last map (default: the last frozen "
        'stage, pooled where all are frozen and nothing needs maps)',
    )
    parser.add_argument(
        '--views',
        nargs='+',
        choices=list(VIEWS),
        metavar='VIEW',
        help='of training images (default: those that the pipeline draws)',
    )
    parser.add_argument('--dtype', choices=list(DTYPES), default='float16')
    parser.add_argument('--batch-size', type=int, default=32, help='views at once (default 32)')
    parser.add_argument('--num-workers', type=int, default=0, help='processes that load images (default 0)')
    parser.add_argument('--device', default=get_device(), help='default: the GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Read the command line and run."""
    if args.out.exists() and not args.out.is_dir():
        raise SystemExit(f'--out {args.out} is a file, expected a folder to fill')
    stage = int(args.stage) if args.stage is not None and args.stage.isdecimal() else args.stage
    cfg = read_config(args.config, args.cfg_options)
    if args.device == 'cpu':
        keep_freed_memory()
    meta = cache_features(cfg, args.out, stage, args.views, args.dtype, args.batch_size, args.num_workers, args.device)
    options = ' '.join(shlex.quote(f'{name}={value}') for name, value in (args.cfg_options or {}).items())
    print(
        f'{args.out}: {meta["num_training"]} training images in {len(meta["views"])} views, '
        f'{len(meta["names"]) - meta["num_training"]} others, {meta["shape"]} each in {meta["dtype"]}; '
        f'tools/train.py {args.config} --feature-cache {args.out}{" --cfg-options " if options else ""}{options} '
        'trains from it'
    )
