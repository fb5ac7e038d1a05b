"""Train a config with several seeds and keep what a table needs: ``run_seeds.py CONFIG --seeds 0 1 2 --name NAME``.

The protocol (docs/reproducing.md): each seed trains in a process of its own; its checkpoint is the one with the highest
mR on val, the first of equal ones; that one is measured on val and, once, on test.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.config import Config

from galr_mm.cli.common import (
    ConfigOptions,
    build_runner,
    ensure_rerank_hook,
    load_config,
    read_config,
    require_writable,
)
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.cli.get_flops import measure
from galr_mm.cli.test import load_weights
from galr_mm.cli.test import parse_args as parse_test_args
from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.evaluation import RecallAtK, RetrievalEvaluator
from galr_mm.evaluation.rerankers import build_rerankers
from galr_mm.evaluation.runs import load_run, save_run
from galr_mm.registry import DATASETS
from galr_mm.structures import RetrievalResult
from galr_mm.utils.config import AFTER_TRAINING, PACKAGE, READ_BY_RUNS
from galr_mm.utils.io import atomic_write, file_lock, read_json, write_text

STARTS = ('pretrained', 'checkpoint', 'name_or_path', 'load_from')  # keys of a config that name ready weights
HARDEST = 12


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; ``options`` are the words of --cfg-options as they were given."""
    parser = argparse.ArgumentParser(description='Train, select on val and test with several seeds; a json for each')
    parser.add_argument('config', help='config file')
    parser.add_argument('--seeds', type=int, nargs='+', required=True)
    parser.add_argument('--name', required=True, help='of these runs: the folder in --out and --work-dir')
    parser.add_argument('--out', type=Path, default=Path('docs/results/runs'), help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/runs'), help='folder of the trainings')
    parser.add_argument('--feature-cache', metavar='DIR', help='passed to tools/train.py; val and test read the images')
    parser.add_argument('--rerank', nargs='+', default=[], metavar='NAME', help='re-rankers to measure beside')
    parser.add_argument(
        '--no-test', action='store_true', help='val only, for choosing settings; a later call without it tests'
    )
    parser.add_argument('--overwrite', action='store_true', help='evaluate again what is complete')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as of tools/train.py, for training and test'
    )
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f'--seeds: {args.seeds} names a seed twice')
    if wrong := [seed for seed in args.seeds if not 0 <= seed < 1 << 32]:
        parser.error(f'--seeds: {wrong} is outside of 0 to {(1 << 32) - 1}')
    if not re.fullmatch(r'[\w-][\w.-]*', args.name):
        parser.error(
            f'--name: {args.name!r} is not made of letters, digits, dots, hyphens and underscores, the first no dot'
        )
    return args


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """The values of ``--cfg-options`` by dotted name."""
    parser = argparse.ArgumentParser(prog='run_seeds.py')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, default={})
    return parser.parse_args(['--cfg-options', *words] if words else []).cfg_options


def check_protocol(cfg: Config, name: str) -> None:
    """Stop before training where a checkpoint would not be selected by val mR, or val and test are not what they say.

    Raises:
        SystemExit: names the setting.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('save_best') != 'mR' or hook.get('rule') != 'greater':
        raise SystemExit(
            f"{name}: default_hooks.checkpoint needs save_best='mR', rule='greater': selection is by val mR"
        )
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            raise SystemExit(f'{name} has no {split}_dataloader')
        found = {value for key, value in _leaves(loader.dataset) if key == 'split'}
        if found != {split}:
            raise SystemExit(f'{name}: {split}_dataloader reads the splits {sorted(found)}, expected {split!r} alone')


def starting_weights(cfg: Config) -> list[str]:
    """What the weights start from: ``key path: file or name`` for each of the config, nothing where all are random."""
    found = []
    for path, key, value in _paths(dict(model=cfg.model, load_from=cfg.get('load_from'))):
        if key in STARTS and value is True:  # the part itself knows which
            part: Any = cfg
            for name in path.split('.')[:-1]:
                part = part[int(name) if isinstance(part, list) else name]
            value = ' '.join(str(part[name]) for name in ('type', 'variant', 'model_name') if name in part)
        if key in STARTS and isinstance(value, str):
            found.append(f'{path}: {_portable(value)}')
    return found


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Run each seed in a process of its own; one seed alone runs here."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)  # so that the training ends with this process
    if len(args.seeds) == 1:
        with settings_of(args.config):
            run_seed(args, args.seeds[0])
        return
    failed = []
    folders = ['--out', str(args.out), '--work-dir', str(args.work_dir)]
    for seed in args.seeds:
        print(f'== {args.name}, seed {seed}', flush=True)
        if _python('run_seeds', *folders, *['--overwrite'] * args.overwrite, *command(args, seed)):
            failed.append(seed)
    if failed:
        raise SystemExit(f'{args.name}: seeds {failed} failed, the others are complete; see above, and start it again')


def run_seed(args: argparse.Namespace, seed: int) -> None:
    """Train (or resume), select and evaluate one seed.

    Raises:
        SystemExit: when the config breaks the protocol, files of another setting are in the way, or training fails.
    """
    options = parse_options(args.cfg_options)
    cfg = read_config(args.config, options)
    check_protocol(cfg, args.config)
    try:
        rerankers = build_rerankers(args.rerank or None, cfg.get('rerank_cfg'))
    except (KeyError, ValueError) as error:
        raise SystemExit(f'--rerank: {error}') from error
    out, work = args.out / args.name / f'seed_{seed}.json', args.work_dir / args.name / f'seed_{seed}'
    if any(word.startswith('randomness') for word in args.cfg_options):
        raise SystemExit('--cfg-options randomness...: --seeds sets it')
    if args.feature_cache:
        try:
            FeatureCache(args.feature_cache)
        except (OSError, ValueError) as error:
            raise SystemExit(f'--feature-cache: {error}') from error
    splits = ['val'] if args.no_test else ['val', 'test']
    settings = dict(
        config=_portable(args.config),
        options=[_portable(word) for word in args.cfg_options],
        config_sha256=training_hash(cfg),
        feature_cache=args.feature_cache is not None,
    )
    asked = {**settings, 'rerank': {name: repr(reranker) for name, reranker in rerankers.items()}}
    if out.is_file():
        # Each look at the test split is a chance to choose by it, so a reported row has one: what is there stays.
        try:
            record = load_run(out).record
        except ValueError as error:
            if not args.overwrite:
                raise SystemExit(f'{error}; --overwrite evaluates again') from error
            record = dict(metrics={})
        there = record['metrics'].keys()
        if args.overwrite and not there <= set(splits):
            raise SystemExit(f'--no-test --overwrite: {out} holds results on test, which would be lost')
        if not args.overwrite and set(splits) <= there:
            # records of before config_sha256 was in them say nothing of it
            different = [key for key, value in asked.items() if record.get(key, value) != value]
            if different:
                raise SystemExit(
                    f'{out} was measured with other settings ({", ".join(different)}); take another --name, or '
                    '--overwrite'
                )
            print(f'{out} is complete; --overwrite evaluates again', flush=True)
            return
    require_writable(out.parent, '--out')
    require_writable(work, '--work-dir')
    try:
        with file_lock(work / 'run'):
            train(args, seed, work, settings)
            evaluate(args, seed, work, out, splits, asked)
    except BlockingIOError as error:
        raise SystemExit(str(error)) from error


def training_hash(cfg: Config) -> str:
    """Of what a training depends on, not the file's name: a file may change. Folders of a machine do not count."""
    read = {key: value for key, value in cfg.to_dict().items() if key in READ_BY_RUNS - AFTER_TRAINING}
    leaves = [(path, _portable(value) if isinstance(value, str) else value) for path, _, value in _paths(read)]
    return hashlib.sha256(json.dumps(leaves, default=str).encode()).hexdigest()


def train(args: argparse.Namespace, seed: int, work: Path, settings: Mapping[str, Any]) -> None:
    """Train one seed in a process of its own, from where it stopped; nothing where it is trained already.

    Raises:
        SystemExit: when the folder holds a training of other settings, or training fails.
    """
    started = work / 'started.json'
    if started.is_file():
        before = read_json(started)
        if any(before[key] != settings[key] for key in ('config_sha256', 'feature_cache')):
            raise SystemExit(f'{work} holds a training of other settings; take another --name, or remove it')
    else:
        write_text(started, json.dumps({**settings, **git_state()}))
    if (work / 'trained').is_file():
        return
    words = [args.config, '--work-dir', str(work), '--resume']
    words += ['--feature-cache', args.feature_cache] if args.feature_cache else []
    options = [*args.cfg_options, f'randomness.seed={seed}']
    code = _python('train', *words, '--cfg-options', *options)
    if code:
        raise SystemExit(f'seed {seed}: training ended with exit code {code}; its files are in {work}')
    (work / 'trained').touch()
    for path in work.glob('epoch_*.pth'):  # what only resuming needs; the selected one stays
        path.unlink()


def learning_curve(work: Path) -> list[dict[str, float]]:
    """Val mR and mean training loss by epoch, from mmengine's logs; of an epoch that was repeated the last counts."""
    losses: dict[int, dict[int, float]] = {}
    recalls: dict[int, float] = {}
    for line in _log_lines(work):
        entry = json.loads(line)
        if 'mR' in entry:
            recalls[entry['step']] = entry['mR']
        elif 'loss' in entry and 'epoch' in entry:
            losses.setdefault(entry['epoch'], {})[entry['step']] = entry['loss']
    means = {epoch: sum(steps.values()) / len(steps) for epoch, steps in losses.items()}
    return [
        {'epoch': epoch, 'mR': mR, **({'loss': means[epoch]} if epoch in means else {})}
        for epoch, mR in sorted(recalls.items())
    ]


def best_checkpoint(work: Path, curve: Sequence[Mapping[str, float]]) -> tuple[int, Path]:
    """Epoch and file of the highest mR on val, the first of equal ones: nothing else has a part in the selection.

    A training that was stopped may have left two files; mmengine's own note of the best one is of before the stop.

    Raises:
        SystemExit: when none is there.
    """
    recalls = {int(point['epoch']): point['mR'] for point in curve}
    whole = [path for path in work.glob('best_mR_*.pth') if zipfile.is_zipfile(path)]  # its directory is written last
    files = {int(path.stem.rsplit('_', 1)[1]): path for path in whole}
    known = sorted(recalls.keys() & files.keys())
    if not known:
        raise SystemExit(f'{work} has no whole best_mR_*.pth whose val mR is in its logs; remove it and train again')
    epoch = max(known, key=lambda step: recalls[step])  # the first of equal ones
    return epoch, files[epoch]


def wall_minutes(work: Path) -> float:
    """Minutes of training, over all its starts: from the name of each log's folder to the log's last line."""
    total = 0.0
    for log in work.glob('*/*.log'):
        if re.fullmatch(r'\d{8}_\d{6}', log.stem):
            total += log.stat().st_mtime - time.mktime(time.strptime(log.stem, '%Y%m%d_%H%M%S'))
    return total / 60


def evaluate(
    args: argparse.Namespace, seed: int, work: Path, out: Path, splits: Sequence[str], asked: Mapping[str, Any]
) -> None:
    """Measure the selected checkpoint on the splits, from the images, and write the json and the ranks."""
    curve = learning_curve(work)
    epoch, checkpoint = best_checkpoint(work, curve)
    words = ['--work-dir', str(work / 'evaluation')]  # without the feature cache: what is reported reads images
    words += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    tested = parse_test_args([args.config, str(checkpoint), *words])
    recall = RecallAtK()
    results: dict[str, RetrievalResult] = {}
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for split in splits:
        cfg = load_config(tested, ('model', 'test_cfg', 'test_evaluator'))
        cfg.test_dataloader, cfg.test_evaluator = cfg[f'{split}_dataloader'], cfg[f'{split}_evaluator']
        cfg.rerank = args.rerank or None
        ensure_rerank_hook(cfg)
        cfg.load_from, cfg.resume = None, False
        cfg.experiment_name = f'{args.name}_{seed}_{split}'
        runner = build_runner(cfg)
        # where mmengine would: hooks such as EMAHook want to be set up before
        runner.load_or_resume = lambda runner=runner: load_weights(runner, str(checkpoint))
        runner.test()
        evaluator = runner.test_loop.evaluator
        if not isinstance(evaluator, RetrievalEvaluator) or evaluator.result is None:
            raise SystemExit(
                f'{args.config}: {split}_evaluator is not galr_mm.RetrievalEvaluator, which keeps the ranks'
            )
        results[split] = evaluator.result
        if missing := sorted(asked['rerank'].keys() - evaluator.result.ranks.keys()):
            raise SystemExit(f'{args.config}: {split} was not re-ranked by {", ".join(missing)}')
        metrics[split] = {prefix or 'raw': recall(ranks) for prefix, ranks in evaluator.result.ranks.items()}
        metrics[split]['chance'] = recall.chance(evaluator.result.positives)
    started = read_json(work / 'started.json')
    record = {
        'name': args.name,
        'seed': seed,
        **asked,
        'init': starting_weights(cfg),
        'best_epoch': epoch,
        'metrics': metrics,
        'curve': curve,
        'data': describe_data(cfg, results),
        'model': measure(runner.model, cfg),
        'wall_minutes': round(wall_minutes(work), 2),
        'machine': describe_machine(),
        'code': dict(trained={key: started[key] for key in ('commit', 'dirty')}, evaluated=git_state()),
        'command': shlex.join(['python', 'tools/analysis_tools/run_seeds.py', *map(_portable, command(args, seed))]),
    }
    if 'test' in results:
        record['hardest'] = hardest(results['test'])
    with atomic_write(out.with_suffix('.log.gz')) as part:
        part.write_bytes(gzip.compress('\n'.join(_log_lines(work)).encode() + b'\n', mtime=0))  # equal for equal logs
    save_run(out, record, results)
    shown = '; '.join(f'{split} mR {metrics[split]["raw"]["mR"]:.2f}' for split in splits)
    print(f'seed {seed}: epoch {epoch}, {shown}; written to {out}', flush=True)


def command(args: argparse.Namespace, seed: int) -> list[str]:
    """The words, but for folders of results, that run one seed of these."""
    words = [args.config, '--seeds', str(seed), '--name', args.name]
    words += ['--feature-cache', args.feature_cache] if args.feature_cache else []
    words += ['--rerank', *args.rerank] if args.rerank else []
    words += ['--no-test'] if args.no_test else []
    return words + (['--cfg-options', *args.cfg_options] if args.cfg_options else [])


def describe_data(cfg: Config, results: Mapping[str, RetrievalResult]) -> dict[str, Any]:
    """Annotation files with their sha256, and images and captions of each split."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    parts = getattr(dataset, 'datasets', [dataset])
    counts = {
        split: dict(images=len(result.image_ids), captions=len(result.text_ids)) for split, result in results.items()
    }
    files = sorted({Path(part.metainfo['ann_file']) for part in parts})
    return dict(
        files={
            f'{path.parent.name}/{path.name}': hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
        },
        train=dict(
            images=sum(part.metainfo['num_images'] for part in parts),
            captions=sum(part.metainfo['num_texts'] for part in parts),
        ),
        **counts,
    )


def describe_machine() -> dict[str, Any]:
    """Cores, processor and torch."""
    info = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*: (.*)', info.read_text()) if info.is_file() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(cores=cores, cpu=names[0] if names else platform.processor(), gpu=gpu, torch=torch.__version__)


def git_state() -> dict[str, Any]:
    """The commit of the code, and whether files that git knows differ from it; the results themselves do not count."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(['git', '-C', PACKAGE.parent, *words], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!docs')
    return dict(commit=git('rev-parse', '--short', 'HEAD'), dirty=None if changed is None else bool(changed))


def hardest(result: RetrievalResult, topk: int = 5) -> list[dict[str, Any]]:
    """The captions whose image has the worst rank by the raw scores, one an image, with what was returned."""
    ranks = result.ranks['']['t2i']
    owner = result.positives.int().argmax(dim=0)
    names = [Path(name or '').name for name in result.image_paths]
    queries: dict[int, int] = {}  # of an image, the worst caption
    for query in ranks.argsort(descending=True, stable=True).tolist():
        queries.setdefault(int(owner[query]), query)
        if len(queries) == HARDEST:
            break
    best, scores = result.top('t2i', list(queries.values()), topk)
    return [
        dict(
            caption=str(result.texts[query]),
            image=names[image],
            rank=int(ranks[query]),
            returned=[[names[i], round(s, 4)] for i, s in zip(row.tolist(), values.tolist(), strict=True)],
        )
        for (image, query), row, values in zip(queries.items(), best, scores, strict=True)
    ]


def _python(tool: str, *words: str) -> int:
    """Run a tool of this package in a process of its own, which ends with this one. Gives its exit code."""
    child = subprocess.Popen([sys.executable, '-c', f'from galr_mm.cli.{tool} import main; main()', *words])
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise


def _stop(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _log_lines(work: Path) -> list[str]:
    """What mmengine logged of all starts of a training, a json a line; one that was killed may end in half a line."""
    files = sorted(work.glob('*/vis_data/scalars.json'))
    whole = [path.read_text(encoding='utf-8').rpartition('\n')[0] for path in files]
    return [line for text in whole for line in text.splitlines() if line]


def _paths(node: Any, prefix: str = '') -> Iterator[tuple[str, str, Any]]:
    """Dotted path, last key and value of the leaves of a config."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        path = f'{prefix}.{key}'.lstrip('.')
        if isinstance(value, (Mapping, list, tuple)):
            yield from _paths(value, path)
        else:
            yield path, str(key), value


def _leaves(node: Any) -> Iterator[tuple[str, Any]]:
    return ((key, value) for _, key, value in _paths(node))


def _portable(word: str) -> str:
    """A word of a command line without folders of this machine: a path in the checkout relative to it, else a name."""
    key, sign, value = word.rpartition('=')
    path = Path(value)
    if not path.is_absolute():
        return word
    inside = path.is_relative_to(PACKAGE.parent)
    return key + sign + (path.relative_to(PACKAGE.parent).as_posix() if inside else path.name)
