"""Test a model: ``python tools/test.py CONFIG [CHECKPOINT] [--cfg-options rerank=mr] [flags]``."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from galr_mm.cli.common import (
    add_common_arguments,
    build_runner,
    check_start,
    close_processes,
    load_config,
    require_writable,
)
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.datasets.transforms.symmetries import VIEWS
from galr_mm.engine.hooks import CaptionReportHook
from galr_mm.integrations.checkpoints import require_checkpoint
from galr_mm.messages import clip
from galr_mm.utils.config import datasets_of
from galr_mm.utils.wrappers import unwrapped

TRAINING = ('train_cfg', 'train_dataloader', 'optim_wrapper')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of mmpretrain's tool of the same name, as far as they make sense for retrieval."""
    parser = argparse.ArgumentParser(description='Test a model')
    add_common_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint, a file or a link; left out for a model whose weights all come from files of its config '
        '(zero-shot CLIP)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: features of images are means over the eight flips and quarter turns, or over '
        'what tta_model and tta_pipeline of the config say',
    )
    parser.add_argument('--out', help='.npz for the scores of both directions, raw and re-ranked, with ids')
    parser.add_argument('--show-dir', help='folder for sheets of captions with their best images')
    return parser.parse_args(argv)


def merge_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Derive runner settings from the flags, on top of a config that already holds ``--cfg-options``."""
    args.checkpoint = args.checkpoint or cfg.get('load_from')
    if args.checkpoint is None and (trained := [name for name in TRAINING if cfg.get(name) is not None]):
        raise SystemExit(
            f'CHECKPOINT is missing: the config trains a model (it has {", ".join(trained)}); only one whose weights '
            'all come from files, such as zero-shot CLIP, is tested without'
        )
    if args.checkpoint is not None:
        require_checkpoint(args.checkpoint)
    if not cfg.get('rerank') and (idle := [name for name in args.cfg_options or () if name.startswith('rerank_cfg')]):
        raise SystemExit(f'--cfg-options {idle[0]}: nothing is re-ranked without rerank=mr or another name')
    if args.amp:
        cfg.test_cfg.fp16 = True
    evaluator = cfg.test_evaluator if isinstance(cfg.test_evaluator, dict) else {}  # a list is mmengine's Evaluator
    if (args.out or args.show_dir) and 'RetrievalEvaluator' not in str(evaluator.get('type')):
        raise SystemExit("--out and --show-dir need test_evaluator=dict(type='galr_mm.RetrievalEvaluator', ...)")
    if args.out:
        if Path(args.out).suffix != '.npz':
            raise SystemExit(f'--out is {args.out}, expected a name that ends in .npz')
        require_writable(Path(args.out).parent, '--out')
        cfg.test_evaluator.out_file = args.out
    if args.show_dir:
        require_writable(Path(args.show_dir), '--show-dir')
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            dict(type='galr_mm.RankedHitsHook', out_dir=args.show_dir),
        ]
    return cfg


def use_tta(cfg: Config) -> None:
    """Put the model into ``tta_model``, and the views of ``tta_pipeline`` into the pipelines of the test data.

    Without them in the config, the model is a :class:`galr_mm.RetrievalTTAModel`, and before its last step, which
    packs it, each sample becomes its views of :data:`galr_mm.datasets.transforms.symmetries.VIEWS`.

    Raises:
        SystemExit: when the config says something else.
    """
    views = [dict(type='galr_mm.RandomD4', views=[view]) for view in VIEWS]
    own, model = cfg.get('tta_pipeline'), cfg.get('tta_model', dict(type='galr_mm.RetrievalTTAModel'))
    given = own if isinstance(own, list) and all(isinstance(step, dict) for step in own) else []
    parts = [step.get('transforms') or [[]] for step in given if 'TestTimeAug' in str(step.get('type'))]
    if own is not None and (len(parts) != 1 or not all(parts[0])):
        raise SystemExit(
            '--tta: tta_pipeline needs one TestTimeAug, and in its transforms lists of at least one transform'
        )
    if not isinstance(model, dict):
        raise SystemExit(f'--tta: tta_model is {model!r}, expected a dict with its type')
    for dataset in datasets_of(cfg.test_dataloader.dataset):
        if not dataset.get('pipeline'):
            raise SystemExit('--tta: a data set of test_dataloader has no pipeline to take views in')
        *steps, pack = dataset.pipeline
        each = dict(type='mmcv.TestTimeAug', transforms=[views, [pack]])
        dataset.pipeline = copy.deepcopy([*steps, each] if own is None else own)
    cfg.model = dict(model, module=cfg.model)


def require_weights(model: nn.Module) -> None:
    """Stop where a part of the model is random: only the model knows, by ``weights_from_files``."""
    inner = unwrapped(model)
    if not getattr(inner, 'weights_from_files', False):
        raise SystemExit(
            f'CHECKPOINT is missing: not every weight of {type(inner).__name__} comes from files that the config names'
        )


def load_weights(runner: Runner, checkpoint: str) -> None:
    """Load weights that must fit: a test of half-loaded weights would report the recalls of a random model."""
    try:
        runner.load_checkpoint(checkpoint, strict=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise SystemExit(f'{checkpoint} does not fit the model of this config: {clip(error, 1500)}') from error


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    args = parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Run the test."""
    if args.tta and args.feature_cache is not None:
        raise SystemExit('--tta needs the views of test images, and a --feature-cache has one of each')
    cfg = merge_args(load_config(args, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')), args)
    require_writable(Path(cfg.work_dir), '--work-dir')
    check_start(cfg, args.checkpoint)
    if args.tta:
        use_tta(cfg)
    runner = build_runner(cfg)
    runner.register_hook(CaptionReportHook())
    if args.checkpoint is None:
        require_weights(runner.model)
    else:
        # where mmengine would: hooks such as EMAHook want to be set up before
        runner.load_or_resume = lambda: load_weights(runner, args.checkpoint)
    runner.test()
    close_processes()
