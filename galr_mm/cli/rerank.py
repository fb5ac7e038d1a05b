"""Re-rank a similarity matrix of any model: ``python tools/rerank.py SIMS.npy --method mr --k 30 --out OUT.npz``."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galr_mm.cli.common import require_writable
from galr_mm.cli.errors import one_line
from galr_mm.evaluation import FormulaRerank, RecallAtK, build_rerankers, paired_bootstrap
from galr_mm.evaluation.rerankers import Reranker
from galr_mm.evaluation.sweep import GRIDS, sweep_multivariate, sweep_reranker
from galr_mm.functional.arrays import as_positives
from galr_mm.functional.bootstrap import MOST_RESAMPLES
from galr_mm.functional.rerank.checks import prepare
from galr_mm.messages import clip, reason, shorten
from galr_mm.structures import RerankedScores, RetrievalScores
from galr_mm.utils.io import atomic_write, instead_of, read_json, write_text
from galr_mm.visualization import draw_sweep

OPTIONS = ('k', 'weights', 'decay', 'reverse', 'reverse_top', 'significance', 'tail', 'scale', 'dynamic')
ARRAYS = ('i2t', 't2i', 'positives', 'bank/i2t', 'bank/t2i')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the re-rankers carry their names; those not given keep their defaults."""
    parser = argparse.ArgumentParser(description='Re-rank a similarity matrix, images in rows and captions in columns')
    parser.add_argument(
        'similarity', help='.npy, .npz (i2t and, if there, t2i, positives, bank/i2t and bank/t2i) or .pt; (I, T)'
    )
    parser.add_argument('--t2i', help='file of the other direction (T, I), where it is not the transpose')
    owners = parser.add_mutually_exclusive_group()
    owners.add_argument('--captions-per-image', type=int, help='captions n*i to n*i+n-1 describe image i (default 5)')
    owners.add_argument('--positives', help='json: for each image the list of its caption columns')
    parser.add_argument('--method', default='mr', choices=['mr', 'rr', 'product', 'dsl', 'qbnorm', 'csls'])
    parser.add_argument('--k', type=int, help='candidates of each query; neighbors for csls')
    parser.add_argument('--weights', type=float, nargs=3, metavar=('SIGNIFICANCE', 'FORWARD', 'REVERSE'))
    parser.add_argument('--decay', type=float)
    parser.add_argument('--reverse', choices=['ordinal', 'absolute'])
    parser.add_argument('--reverse-top', type=int)
    parser.add_argument('--significance', choices=['ratio', 'softmax', 'off'])
    parser.add_argument('--tail', choices=['keep', 'zero'])
    parser.add_argument('--scale', type=float, help='factor of similarities in the exponentials of dsl and qbnorm')
    parser.add_argument('--dynamic', action='store_true', default=None, help='the dynamic variant of qbnorm')
    parser.add_argument(
        '--bank', metavar='BANK.npz',
        help='similarities of training queries to the galleries, bank/i2t (P, T) and bank/t2i (R, I), or i2t and t2i '
        'where it has no others, in place of those of the file; for qbnorm, and used by dsl and csls where it is given',
    )  # fmt: skip
    parser.add_argument('--filler', type=float, help='value of pairs that were not scored, e.g. -100')
    parser.add_argument('--out', help='.npz for the re-ranked i2t (I, T) and t2i (T, I) scores')
    parser.add_argument('--topk', type=int, nargs='+', default=[1, 5, 10], help='k of the recalls')
    parser.add_argument('--resamples', type=int, default=2000, help='draws of the bootstrap')
    parser.add_argument('--seed', type=int, default=0, help='of the bootstrap')
    parser.add_argument(
        '--sweep', nargs='?', const='rerank_sweep.png', metavar='IMAGE.png',
        help='search the parameters of a method on a VALIDATION matrix; draws them (default rerank_sweep.png), and '
        'writes all settings with their mR to a .json beside it',
    )  # fmt: skip
    parser.add_argument('--allow-pickle', action='store_true', help='read pickled files; they can run any code')
    return parser.parse_args(argv)


def load_arrays(path: str, allow_pickle: bool, wanted: str | None = 'i2t') -> dict[str, Tensor]:
    """The tensors of a file that have names of ``ARRAYS``; a single array without such a name is ``wanted``.

    Args:
        path: of the file.
        allow_pickle: read pickled files.
        wanted: name of the array that must be there; None where that depends.

    Raises:
        SystemExit: when it cannot be read, holds other things, or is pickled without ``allow_pickle``.
    """
    try:
        if Path(path).suffix in ('.pt', '.pth'):
            data = torch.load(path, map_location='cpu', weights_only=not allow_pickle)
        elif Path(path).suffix in ('.npy', '.npz'):
            data = np.load(path, allow_pickle=allow_pickle)
        else:
            raise SystemExit(f'{path}: expected a name that ends in .npy, .npz, .pt or .pth')
        if isinstance(data, np.ndarray) and data.dtype == object:
            data = data.item() if data.ndim == 0 else np.stack(list(data))
        if isinstance(data, (np.ndarray, Tensor)):
            data = {'an array without a name': data}
        if not isinstance(data, (Mapping, np.lib.npyio.NpzFile)):
            raise TypeError(f'it holds a {type(data).__name__}, expected an array or named arrays')
        names = list(data)
        chosen = {name: name for name in ARRAYS if name in names}
        if not chosen and wanted and len(names) == 1:
            chosen = {wanted: names[0]}
        arrays = {name: torch.as_tensor(data[key]) for name, key in chosen.items()}
    except FileNotFoundError:
        raise SystemExit(f'no file at {path}') from None
    except Exception as error:  # a broken file makes its reader raise anything
        pickled = not allow_pickle and 'pickle' in str(error).lower() or isinstance(error, pickle.UnpicklingError)
        hint = (
            '; a pickled file (not a broken one) is read with --allow-pickle, which can run any code in it'
            if pickled
            else ''
        )
        instead = instead_of(path) if Path(path).is_file() else ''
        problem = f'it is {instead}' if instead else f'{reason(error, 200)}{hint}'
        raise SystemExit(f'{path} cannot be read: {problem}') from error
    if wanted and wanted not in arrays:
        raise SystemExit(
            f'{path} holds {clip(", ".join(map(str, names))) or "nothing"}; expected {wanted!r}, or a single array '
            f'that is not named {" or ".join(name for name in ARRAYS if name != wanted)}'
        )
    return arrays


def prepare_scores(path: str, matrix: Tensor) -> Tensor:
    """A matrix of real numbers that can be re-ranked.

    Raises:
        SystemExit: when it is something else.
    """
    try:
        return prepare(matrix)
    except ValueError as error:
        raise SystemExit(f'{path}: {error}') from error


def load_scores(args: argparse.Namespace) -> RetrievalScores:
    """Scores of both directions and positives.

    Raises:
        SystemExit: when shapes or positives do not fit.
    """
    arrays = load_arrays(args.similarity, args.allow_pickle)
    i2t = prepare_scores(args.similarity, arrays['i2t'])
    t2i = load_arrays(args.t2i, args.allow_pickle, 't2i')['t2i'] if args.t2i else arrays.get('t2i', i2t.t())
    t2i = prepare_scores(args.t2i or args.similarity, t2i)
    banks: dict[str, Tensor] = {}
    if args.bank or args.method == 'qbnorm':
        file = args.bank or args.similarity
        given = load_arrays(file, args.allow_pickle, None) if args.bank else arrays
        own = ('bank/i2t', 'bank/t2i')  # beside the scores of a test, which are no bank
        names = own if not args.bank or set(own) & given.keys() else ('i2t', 't2i')
        missing = [name for name in names if name not in given]
        if missing:
            raise SystemExit(
                f'{file} has no {" and no ".join(missing)}: similarities of training queries to the galleries, which '
                '`tools/test.py --out` writes with rerank=qbnorm'
            )
        banks = {f'bank_{name[-3:]}': prepare_scores(file, given[name]) for name in names}
    try:
        if args.positives:
            positives = read_positives(args.positives, *i2t.shape)
        elif 'positives' in arrays and args.captions_per_image is None:
            positives = as_positives(arrays['positives'], i2t.shape)
        else:
            count = 5 if args.captions_per_image is None else args.captions_per_image
            positives = RetrievalScores.from_matrix(i2t, count).positives
        return RetrievalScores(i2t, t2i, positives, args.filler, **banks)
    except ValueError as error:
        files = f'{args.similarity} and --t2i {args.t2i}' if args.t2i else args.similarity
        raise SystemExit(
            f'{files}: {error}. Rows are images; --captions-per-image or --positives say which captions are theirs'
        ) from error


def read_positives(path: str, images: int, captions: int) -> Tensor:
    """Positives, bool (I, T), from a json list with the caption columns of each image.

    Raises:
        SystemExit: when it is something else.
    """
    try:
        lists = read_json(path)
        positives = torch.zeros(images, captions, dtype=torch.bool)
        if not isinstance(lists, list) or len(lists) != images:
            raise ValueError(f'expected a list of {images} lists, one for each image')
        for row, columns in enumerate(lists):
            for column in columns:
                if not isinstance(column, int) or not 0 <= column < captions:
                    raise ValueError(
                        f'image {row} has caption {shorten(column)}, expected columns from 0 to {captions - 1}'
                    )
                positives[row, column] = True
    except (OSError, ValueError, TypeError) as error:
        raise SystemExit(f'--positives {path}: {error}') from error
    return positives


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Re-rank and report, or sweep."""
    args = parse_args(argv)
    options: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    for flag, path, suffix in (('--out', args.out, '.npz'), ('--sweep', args.sweep, '.png')):
        if path and (Path(path).suffix != suffix or Path(path).is_dir()):
            raise SystemExit(f'{flag} is {path}, expected a file name that ends in {suffix}')
        if path:
            require_writable(Path(path).parent, flag)
    for path in filter(None, (args.similarity, args.t2i, args.bank)):
        if args.out and Path(args.out).exists() and Path(path).exists() and Path(args.out).samefile(path):
            raise SystemExit(f'--out {args.out} is the file that {path} is read from; take another name')
    if not 1 <= args.resamples <= MOST_RESAMPLES:
        raise SystemExit(f'--resamples is {args.resamples}, expected 1 to {MOST_RESAMPLES:,} draws')
    if args.sweep:
        require_replaceable(Path(args.sweep).with_suffix('.json'))
    if args.bank and args.method in ('dsl', 'csls'):
        options['bank'] = True
    elif args.bank and args.method != 'qbnorm':
        raise SystemExit(f'--bank is for qbnorm, dsl and csls; {args.method} has no use for it')
    reranker = build_rerankers(args.method, {args.method: options})[args.method]
    recall = RecallAtK(args.topk)
    scores = load_scores(args)
    try:
        if args.sweep:
            sweep(scores, args, options)
        else:
            report(scores, rerank(scores, reranker), recall, args, repr(reranker))
    except ValueError as error:
        raise SystemExit(f'{args.similarity}: {error}') from error


def rerank(scores: RetrievalScores, reranker: Reranker) -> RerankedScores | RetrievalScores:
    """Re-ranked scores; without matrices where that is possible."""
    return reranker.rescore(scores) if isinstance(reranker, FormulaRerank) else reranker(scores)


def report(
    raw: RetrievalScores, new: RerankedScores | RetrievalScores, recall: RecallAtK, args: argparse.Namespace, name: str
) -> None:
    """Print recalls before and after with the difference and its interval; write the scores."""
    intervals = paired_bootstrap(raw.ranks, new.ranks, raw.positives, args.topk, args.resamples, seed=args.seed)
    before, after, chance = recall(raw.ranks), recall(new.ranks), recall.chance(raw.positives)
    print(f'{raw.i2t.shape[0]} images, {raw.i2t.shape[1]} captions; percent; ties: {recall.tie_rule}')
    print(f'{name}; 95 % intervals: paired bootstrap over images, {args.resamples} draws, seed {args.seed}')
    print(f'{"":10}{"chance":>9}{"raw":>9}{"re-ranked":>11}{"change":>9}   interval')
    for key, (change, low, high) in intervals.items():
        print(
            f'{key:10}{chance[key]:9.2f}{before[key]:9.2f}{after[key]:11.2f}{change:+9.2f}   {low:+.2f} to {high:+.2f}'
        )
    if args.out:
        with atomic_write(args.out) as part, part.open('wb') as file:
            matrices = new.matrices()
            np.savez(file, i2t=matrices.i2t.numpy(), t2i=matrices.t2i.numpy())
        print(f're-ranked scores written to {args.out}')


def require_replaceable(path: Path) -> None:
    """Refuse to write the settings of a sweep over a file that is none.

    Raises:
        SystemExit: names it.
    """
    try:
        earlier = not path.exists() or read_json(path).keys() >= {'method', 'points'}
    except (AttributeError, OSError, ValueError):
        earlier = False
    if not earlier:
        raise SystemExit(f'--sweep writes its settings to {path}, which is there and is no sweep; take another name')


def sweep(scores: RetrievalScores, args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Search a grid of parameters, draw it and print the best setting."""
    searched = ['k', 'weights', 'tail'] if args.method == 'mr' else list(GRIDS[args.method])
    if args.out or set(searched) & options.keys():
        flags = ', '.join(f'--{name}' for name in searched)
        raise SystemExit(f'--sweep searches the parameters of {args.method}; leave {flags} and --out out')
    if args.method == 'mr':
        raw, points = sweep_multivariate(scores, topk=args.topk, **options)
    else:
        raw, points = sweep_reranker(scores, args.method, topk=args.topk, **options)
    _, (default,) = sweep_reranker(scores, args.method, {}, args.topk, **options)
    draw_sweep(raw, points, args.sweep)
    record = dict(method=args.method, fixed=options, raw=raw, default=default.mean_recall)
    record['points'] = [dict(point.options, mR=point.mean_recall) for point in points]
    write_text(Path(args.sweep).with_suffix('.json'), json.dumps(record, indent=1) + '\n')
    ranked = sorted(points, key=lambda point: -point.mean_recall)
    print(
        f'{len(points)} settings; mR of the raw scores {raw:.2f}, of the defaults {default.mean_recall:.2f}; the best:'
    )
    for point in ranked[:5]:
        setting = ' '.join(f'{name}={value}' for name, value in point.options.items())
        print(f'  mR {point.mean_recall:6.2f} ({point.mean_recall - raw:+.2f})  {setting}')
    print(f'drawn to {args.sweep}. Chosen on this matrix, the best looks better than it is: test it elsewhere.')
    chosen = {**ranked[0].options, **options}
    settings = ' '.join(f'rerank_cfg.{args.method}.{name}={_text(value)}' for name, value in chosen.items())
    print(f'tools/test.py:   --cfg-options rerank={args.method} {settings}')
    words = [] if args.method == 'mr' else ['--method', args.method]
    for name, value in chosen.items():
        if name != 'bank' and value is not False:
            words += [f'--{name.replace("_", "-")}', *([] if value is True else _words(value))]
    words += ['--bank', args.bank] if args.bank else []
    print(f'tools/rerank.py: {" ".join(words)}')


def _text(value: Any) -> str:
    return f'"[{",".join(_words(value))}]"' if isinstance(value, tuple) else str(value)


def _words(value: Any) -> list[str]:
    return [f'{v:g}' for v in value] if isinstance(value, tuple) else [str(value)]
