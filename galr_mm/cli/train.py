"""Train a config: ``python tools/train.py configs/galr_rsitmd.py [flags]``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from galr_mm.cli.common import (
    add_common_arguments,
    build_runner,
    check_start,
    close_processes,
    load_config,
    require_writable,
)
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.engine.hooks import CaptionReportHook
from galr_mm.integrations.checkpoints import require_checkpoint
from galr_mm.utils.io import file_lock, naming


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of mmpretrain's tool of the same name."""
    parser = argparse.ArgumentParser(description='Train a model')
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from CHECKPOINT, or without one from the latest checkpoint in the work directory',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    return parser.parse_args(argv)


def merge_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Derive runner settings from the flags, on top of a config that already holds ``--cfg-options``."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        hooks = [(cfg.get('default_hooks') or {}).get('checkpoint'), *(cfg.get('custom_hooks') or [])]
        for hook in filter(None, hooks):
            hook.pop('save_best', None)  # nothing to choose the best checkpoint by
    if args.amp:
        if get_device() == 'cpu':
            raise SystemExit('--amp: mixed precision training needs a GPU')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = 'auto' if args.resume == 'auto' else True
        if args.resume != 'auto':
            cfg.load_from = args.resume
            require_checkpoint(cfg.load_from)
    return cfg


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    args = parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Run training."""
    cfg = merge_args(load_config(args, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')), args)
    require_writable(Path(cfg.work_dir), '--work-dir')
    check_start(cfg, cfg.get('load_from'))
    try:
        # the first process writes; the others may not see its file system
        lock = file_lock(Path(cfg.work_dir) / 'training') if os.environ.get('RANK', '0') == '0' else nullcontext()
        with lock, naming(cfg.work_dir):
            runner = build_runner(cfg)
            runner.register_hook(CaptionReportHook())
            runner.train()
    except BlockingIOError as error:
        raise SystemExit(
            f'--work-dir: another training is running in {cfg.work_dir}; wait for it, stop it, or take another folder'
        ) from error
    close_processes()
