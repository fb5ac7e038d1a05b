"""Train a config with several seeds and keep what a table needs: ``run_seeds.py CONFIG --seeds 0 1 2 --name NAME``.

The protocol (docs/reproducing.md): each seed trains in a process of its own; its checkpoint is the one with the highest
mR on val, the first of equal ones; that one is measured on val and, once, on test.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.runner import Runner

from galr_mm.cli.common import (
    ConfigOptions,
    build_runner,
    ensure_rerank_hook,
    load_config,
    read_config,
    require_writable,
)
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.cli.get_flops import measure as get_flops
from galr_mm.cli.test import load_weights, use_tta
from galr_mm.cli.test import parse_args as parse_test_args
from galr_mm.datasets.feature_cache import FeatureCache
from galr_mm.engine.work_dir import best_checkpoint, learning_curve, log_lines, wall_minutes
from galr_mm.evaluation import RecallAtK, RetrievalEvaluator
from galr_mm.evaluation.provenance import (
    describe_data,
    describe_machine,
    git_state,
    input_files,
    portable,
    starting_weights,
    training_hash,
)
from galr_mm.evaluation.rerankers import build_rerankers
from galr_mm.evaluation.runs import NAME, check_selected, load_run, save_run
from galr_mm.messages import shorten
from galr_mm.structures import RetrievalResult
from galr_mm.utils.config import leaves
from galr_mm.utils.io import atomic_write, file_lock, read_json, write_text
from galr_mm.utils.wrappers import unwrapped

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
    parser.add_argument(
        '--tta',
        action='store_true',
        help='measure with views at test time, as tools/test.py --tta: the trainings that the same call without it '
        'made, as a row NAME_tta of its own',
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
    if not re.fullmatch(NAME, args.name):
        parser.error(
            f'--name: {args.name!r} is not made of letters, digits, dots, hyphens and underscores, the first no dot'
        )
    if args.name.endswith('_tta'):
        parser.error(f'--name: {args.name!r} ends in _tta, as the rows that --tta measures')
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
        found = {value for name, value in leaves(loader.dataset) if name.rpartition('.')[2] == 'split'}
        if found != {split}:
            raise SystemExit(f'{name}: {split}_dataloader reads the splits {sorted(found)}, expected {split!r} alone')


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
        FileNotFoundError: when the selected checkpoint was removed.
        SystemExit: when the config breaks the protocol, files of another setting are in the way, or training fails.
    """
    options = parse_options(args.cfg_options)
    cfg = read_config(args.config, options)
    check_protocol(cfg, args.config)
    try:
        rerankers = build_rerankers(args.rerank or None, cfg.get('rerank_cfg'))
    except (KeyError, ValueError) as error:
        raise SystemExit(f'--rerank: {error}') from error
    work = args.work_dir / args.name / f'seed_{seed}'
    out = args.out / row_name(args) / f'seed_{seed}.json'
    if any(word.startswith('randomness') for word in args.cfg_options):
        raise SystemExit('--cfg-options randomness...: --seeds sets it')
    if not args.rerank and (idle := [word for word in args.cfg_options if word.startswith('rerank_cfg')]):
        raise SystemExit(f'--cfg-options {" ".join(idle)}: without --rerank nothing is re-ranked')
    trained = (work / 'trained').is_file()
    if args.feature_cache and not trained:
        try:
            FeatureCache(args.feature_cache)
        except (OSError, ValueError) as error:
            raise SystemExit(f'--feature-cache: {error}') from error
    splits = ['val'] if args.no_test else ['val', 'test']
    settings = dict(
        config=portable(args.config),
        options=[portable(word) for word in args.cfg_options],
        init=starting_weights(cfg),
        config_sha256=training_hash(cfg),
        inputs=input_files(cfg),
        feature_cache=args.feature_cache is not None,
    )
    asked = {**settings, 'rerank': {name: repr(reranker) for name, reranker in rerankers.items()}, 'tta': args.tta}
    own = {key: cfg[key] for key in ('tta_model', 'tta_pipeline') if cfg.get(key) is not None}
    if args.tta and own:  # views of the config in place of the eight
        asked['tta'] = json.loads(json.dumps(own, default=repr))  # as a file gives it
    if out.is_file():
        # Each look at the test split is a chance to choose by it, so a reported row has one: what is there stays.
        try:
            record = load_run(out).record
        except ValueError as error:
            if not args.overwrite or args.no_test:  # it may hold results on test
                raise SystemExit(f'{error}; --overwrite without --no-test evaluates again') from error
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
    if args.tta and not trained:
        raise SystemExit(
            f'--tta measures trainings that are there, and {work} holds none that ended; the same call without --tta '
            'trains'
        )
    require_writable(out.parent, '--out')
    require_writable(work, '--work-dir')
    try:
        with file_lock(work / 'run'), file_lock(out):
            train(args, seed, work, settings)
            evaluate(args, seed, work, out, splits, asked)
    except BlockingIOError as error:
        raise SystemExit(str(error)) from error


def train(args: argparse.Namespace, seed: int, work: Path, settings: Mapping[str, Any]) -> None:
    """Train one seed in a process of its own, from where it stopped; nothing where it is trained already.

    Raises:
        SystemExit: when the folder holds a training of other settings or files, or training fails.
    """
    started, trained = work / 'started.json', work / 'trained'
    if not trained.is_file() and not any(work.glob('*.pth')):  # refused or stopped before, it starts anew
        write_text(started, json.dumps({**settings, **git_state()}))
    elif started.is_file():
        before = read_json(started)
        if not isinstance(before, dict):
            raise SystemExit(f'{started} holds {shorten(before)}, expected the settings of a training; remove {work}')
        different = [key for key in ('config_sha256', 'feature_cache', 'inputs') if before.get(key) != settings[key]]
        if different:
            raise SystemExit(
                f'{work} holds a training of other settings ({", ".join(different)}); take another --name, or remove it'
            )
    else:
        raise SystemExit(f'{work} holds a training, and no started.json that says of which settings; remove it')
    if trained.is_file():
        return
    words = [args.config, '--work-dir', str(work), '--resume']
    words += ['--feature-cache', args.feature_cache] if args.feature_cache else []
    options = [*args.cfg_options, f'randomness.seed={seed}']
    code = _python('train', *words, '--cfg-options', *options)
    if code:
        raise SystemExit(f'seed {seed}: training ended with exit code {code}; its files are in {work}')
    trained.touch()
    for path in work.glob('epoch_*.pth'):  # what only resuming needs; the selected one stays
        path.unlink()


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

    def config_of(split: str, tta: bool) -> Config:
        cfg = load_config(tested, ('model', 'test_cfg', 'test_evaluator'))
        cfg.test_dataloader, cfg.test_evaluator = cfg[f'{split}_dataloader'], cfg[f'{split}_evaluator']
        cfg.rerank = args.rerank or None
        ensure_rerank_hook(cfg)
        cfg.load_from, cfg.resume = None, False
        cfg.experiment_name = f'{args.name}_{seed}_{split}{"_tta" * tta}'
        if tta:
            use_tta(cfg)
        return cfg

    def check_checkpoint(val: RetrievalResult) -> None:
        (expected,) = (point['mR'] for point in curve if point['epoch'] == epoch)
        try:
            check_selected(recall(val.ranks[''])['mR'], expected, len(val.image_ids))
        except ValueError as error:
            raise SystemExit(f'{checkpoint}: {error}') from error

    results: dict[str, RetrievalResult] = {}
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for split in splits:
        runner, results[split] = measured(config_of(split, args.tta), checkpoint)
        if missing := sorted(asked['rerank'].keys() - results[split].ranks.keys()):
            raise SystemExit(f'{args.config}: {split} was not re-ranked by {", ".join(missing)}')
        metrics[split] = {prefix or 'raw': recall(ranks) for prefix, ranks in results[split].ranks.items()}
        metrics[split]['chance'] = recall.chance(results[split].positives)
        if split == 'val':  # which training saw without views
            plain = measured(config_of(split, tta=False), checkpoint)[1] if args.tta else results[split]
            check_checkpoint(plain)
    cfg = config_of(splits[-1], args.tta)
    started = read_json(work / 'started.json')
    record = {
        'name': row_name(args),
        'seed': seed,
        **asked,
        'best_epoch': epoch,
        'metrics': metrics,
        'curve': curve,
        'data': describe_data(cfg, results),
        'model': get_flops(unwrapped(runner.model), cfg),
        'wall_minutes': round(wall_minutes(work), 2),
        'machine': describe_machine(),
        'code': dict(trained={key: started[key] for key in ('commit', 'dirty')}, evaluated=git_state()),
        'command': shlex.join(['python', 'tools/analysis_tools/run_seeds.py', *map(portable, command(args, seed))]),
    }
    if 'test' in results:
        record['hardest'] = hardest(results['test'])
    with atomic_write(out.with_suffix('.log.gz')) as part:
        part.write_bytes(gzip.compress('\n'.join(log_lines(work)).encode() + b'\n', mtime=0))  # equal for equal logs
    save_run(out, record, results)
    shown = '; '.join(f'{split} mR {metrics[split]["raw"]["mR"]:.2f}' for split in splits)
    print(f'seed {seed}: epoch {epoch}, {shown}; written to {out}', flush=True)


def measured(cfg: Config, checkpoint: Path) -> tuple[Runner, RetrievalResult]:
    """Test a checkpoint on the test data of a config; the runner holds the model.

    Raises:
        SystemExit: when the weights do not fit, or the evaluator keeps no ranks.
    """
    runner = build_runner(cfg)
    # where mmengine would: hooks such as EMAHook want to be set up before
    runner.load_or_resume = lambda: load_weights(runner, str(checkpoint))
    runner.test()
    evaluator = runner.test_loop.evaluator
    if not isinstance(evaluator, RetrievalEvaluator) or evaluator.result is None:
        raise SystemExit(f'{cfg.filename}: the evaluator is not galr_mm.RetrievalEvaluator, which keeps the ranks')
    return runner, evaluator.result


def command(args: argparse.Namespace, seed: int) -> list[str]:
    """The words, but for folders of results, that run one seed of these."""
    words = [args.config, '--seeds', str(seed), '--name', args.name]
    words += ['--feature-cache', args.feature_cache] if args.feature_cache else []
    words += ['--rerank', *args.rerank] if args.rerank else []
    words += ['--no-test'] if args.no_test else []
    words += ['--tta'] if args.tta else []
    return words + (['--cfg-options', *args.cfg_options] if args.cfg_options else [])


def row_name(args: argparse.Namespace) -> str:
    """Of the folder of results: one training may be measured with and without views."""
    return f'{args.name}_tta' if args.tta else str(args.name)


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
