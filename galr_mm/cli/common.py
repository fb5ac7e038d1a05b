"""What the command-line tools share."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger, print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from galr_mm.engine.feature_cache import use_feature_cache
from galr_mm.engine.runner import ToolRunner
from galr_mm.integrations.checkpoints import read_weights
from galr_mm.integrations.installation import require_working_mmcv
from galr_mm.messages import reason
from galr_mm.models.text import words_of
from galr_mm.registry import DATASETS
from galr_mm.text import Vocabulary
from galr_mm.utils.allocator import keep_freed_memory
from galr_mm.utils.config import (
    LINES,
    LOADERS,
    READ_BY_RUNS,
    ConfigLineError,
    apply_line,
    copied_variables,
    is_ours,
    meant_by,
    read_config_file,
)
from galr_mm.utils.logging import quiet_terminal

RERANK_HOOK = dict(type='galr_mm.RerankHook')


class ConfigOptions(DictAction):
    """mmengine's parser of ``KEY=VALUE``; what is not of that form is an error of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the values by their dotted names."""
        wrong = [value for value in values or [] if '=' not in value]
        if wrong:
            parser.error(f'{option_string}: {wrong[0]!r} is not KEY=VALUE')
        # mmengine would take a text in braces apart at its commas, and never end with dict(...)
        if nested := [value for value in values or [] if re.search(r'=[\[(\s]*(dict\(|\{(?!\{))', value)]:
            parser.error(
                f'{option_string}: {nested[0]!r} holds a dict; name what is inside, such as model.loss.type=... or, in '
                'a list, custom_hooks.0.type=...'
            )
        super().__call__(parser, namespace, values, option_string)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-pin-memory', action='store_true', help='switch pin_memory off in all data loaders')
    parser.add_argument(
        '--no-persistent-workers', action='store_true', help='switch persistent_workers off in all data loaders'
    )
    parser.add_argument(
        '--feature-cache',
        type=Path,
        metavar='DIR',
        help='take the features of the frozen part from here (tools/cache_features.py) in place of images',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings merged into the config before anything else looks at it, e.g. rerank=mr rerank_cfg.mr.k=20',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes this one; torchrun sets the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(path: str, options: dict[str, Any] | None) -> Config:
    """Read a config and merge ``--cfg-options``, before anything else looks at it.

    Raises:
        SystemExit: when the config is missing or broken, or an option is refused, see :func:`check_options`.
    """
    if not Path(path).is_file():
        raise SystemExit(f'no config at {path}')
    quiet_terminal(MMLogger.get_current_instance())
    try:
        cfg = read_config_file(path)
    except ConfigLineError as error:
        raise SystemExit(str(error)) from error
    except Exception as error:  # a config is Python: it raises anything
        raise SystemExit(f'{path} cannot be read as a config: {reason(error, 1500)}') from error
    if options:
        known = {*READ_BY_RUNS, *(LINES if is_ours(path) else ())}
        check_options(cfg, options, copied_variables(path), known)
        try:
            for name in options.keys() & set(LINES) if is_ours(path) else ():
                apply_line(cfg, name, options[name])
        except ConfigLineError as error:
            raise SystemExit(f'--cfg-options {error}') from error
        cfg.merge_from_dict(options)
    return cfg


def load_config(args: argparse.Namespace, needed: Sequence[str] = ()) -> Config:
    """Load a config, merge ``--cfg-options`` at once, then apply the shared flags.

    Args:
        args: of :func:`add_common_arguments`.
        needed: settings that a run cannot do without.

    Raises:
        SystemExit: when the config is missing, broken or lacks one of these, or mmcv's compiled ops are broken for the
            installed torch.
    """
    require_working_mmcv()
    if not torch.cuda.is_available():
        keep_freed_memory()
    cfg = read_config(args.config, args.cfg_options)
    missing = [name for name in needed if cfg.get(name) is None]
    if missing:
        raise SystemExit(f'{args.config} has no {", ".join(missing)}')
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    set_loaders(cfg, args.no_pin_memory, args.no_persistent_workers)
    if args.feature_cache is not None:
        try:
            use_feature_cache(cfg, args.feature_cache)
        except (OSError, ValueError) as error:
            raise SystemExit(f'--feature-cache: {error}') from error
    ensure_rerank_hook(cfg)
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise SystemExit('--launcher pytorch: start this tool by torchrun, as tools/dist_train.sh and dist_test.sh do')
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        prepare_cpu_processes(cfg)
    return cfg


def check_start(cfg: Config, checkpoint: str | None) -> None:
    """Look at what a run starts from before anything is built: the checkpoint, and the vocabulary of the config.

    Where the file of the vocabulary is missing, the words that the checkpoint carries are written to the work
    directory and take its place.

    Raises:
        SystemExit: when the checkpoint cannot be read, or the vocabulary is missing there too.
    """
    try:
        weights = {} if checkpoint is None else read_weights(checkpoint)
        encoder = cfg.model.get('text_encoder') or {}
        path = encoder.get('vocabulary')
        if not isinstance(path, str) or Path(path).is_file():
            return
        vocabulary = words_of(weights) or Vocabulary.load(path)
        encoder['vocabulary'] = str(Path(cfg.work_dir) / 'vocabulary.json')
        vocabulary.save(encoder['vocabulary'])
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print_log(f'no vocabulary at {path}; the words are those of {checkpoint}, in {encoder["vocabulary"]}', 'current')


def set_loaders(cfg: Config, no_pin_memory: bool, no_persistent_workers: bool) -> None:
    """Apply the flags of the data loaders; workers that do not exist cannot persist."""
    for loader in filter(None, map(cfg.get, LOADERS)):
        if no_pin_memory:
            loader.pin_memory = False
        if no_persistent_workers or not loader.get('num_workers', 0):
            loader.persistent_workers = False


def add_browse_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the tools that draw samples of a split."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for the PNG files')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='which data loader')
    parser.add_argument('--num', type=int, default=20, help='samples, spread evenly over the split')
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')


def load_split(args: argparse.Namespace) -> tuple[Config, BaseDataset, list[int]]:
    """The config, the data set of ``--split`` and the indices of the samples to draw.

    Raises:
        SystemExit: when the config or its data is missing, or ``--num`` or ``--seed`` is out of range.
    """
    if args.num < 1:
        raise SystemExit(f'--num is {args.num}, expected 1 or more')
    if not 0 <= args.seed < 2**32:
        raise SystemExit(f'--seed is {args.seed}, expected 0 to 2**32 - 1')
    cfg = read_config(args.config, args.cfg_options)
    loader = cfg.get(f'{args.split}_dataloader')
    if loader is None:
        raise SystemExit(f'{args.config} has no {args.split}_dataloader')
    try:
        dataset = DATASETS.build(loader.dataset)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    indices = np.linspace(0, len(dataset) - 1, min(args.num, len(dataset))).round().astype(int).tolist()
    return cfg, dataset, indices


def require_writable(folder: Path, flag: str) -> None:
    """Stop before long work whose result could not be written afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(f'{flag}: cannot write into {folder} ({error})') from error


def check_options(cfg: Config, options: Mapping[str, object], copied: Collection[str], known: Collection[str]) -> None:
    """Refuse options that would change nothing because of a mistake.

    As in mmengine, a name that nothing knows is the user's own, for a hook of theirs to read. Two mistakes are told
    apart from that: a name that nearly is one that runs read, and a variable of this project's configs that their
    settings have copied already.

    Args:
        cfg: The config before the options are merged.
        options: Values by dotted name, as given to ``--cfg-options``.
        copied: Variables that other settings have copied.
        known: Names that runs read.

    Raises:
        SystemExit: names the option and what to write instead.
    """
    for option in options:
        name = option.split('.')[0]
        if name in copied:
            raise SystemExit(
                f'--cfg-options {option}: {name} is copied into other settings when the config is read, so this '
                'would change nothing. Set those (e.g. test_dataloader.dataset.data_root), or GALR_DATA_ROOT'
            )
        if name not in cfg and (meant := meant_by(name, known)):
            raise SystemExit(
                f'--cfg-options {option}: there is no {name!r}; did you mean {meant!r}? '
                '(A setting of your own with this name goes into the config file.)'
            )


def prepare_cpu_processes(cfg: Config) -> None:
    """Let torchrun's processes work without a GPU, which mmengine's own start-up cannot: it always selects one."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper is None:  # what mmengine's default is, but for the device
        unused = cfg.get('find_unused_parameters', False)
        wrapper = dict(broadcast_buffers=False, find_unused_parameters=unused)
    if 'DistributedDataParallel' in str(wrapper.get('type', 'MMDistributedDataParallel')):
        wrapper = dict(wrapper, device_ids=None)
    cfg.model_wrapper_cfg = wrapper


def ensure_rerank_hook(cfg: Config) -> None:
    """Add RerankHook where ``rerank`` is set and a child config's own ``custom_hooks`` replaced ours."""
    hooks = cfg.get('custom_hooks') or []
    if 'rerank' in cfg and not any('RerankHook' in str(hook.get('type')) for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(RERANK_HOOK)]


def build_runner(cfg: Config) -> Runner:
    """The runner that the config names, or ours."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else ToolRunner.from_cfg(cfg)


def close_processes() -> None:
    """Leave a distributed run together: a process that ends while others still talk to it makes them abort."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
