"""Make the tables of docs/results.md from what run_seeds.py wrote: ``make_results.py [--check] [--figures DIR]``.

A table stands in a block of the page; what is outside of blocks is written by hand::

    <!-- table: headline
    dual_encoder_lite0_rsicd: plain dual encoder
    galr_lite0_rsicd: GaLR
    -->
    (made by this tool)
    <!-- end -->

The first line names the kind of table and its options, each other line a run (the name given to run_seeds.py) and its
label. Kinds: headline, ablation (base=RUN), rerankers, sweeps (of their parameters, from the ``sweep_METHOD.json`` of
``tools/rerank.py --sweep`` in the folder of the run), curves, runs (where each row comes from), hardest (of one run),
classes (of UCM-captions). ``figure=NAME`` draws ablation, curves, hardest and classes to NAME.png under --figures;
the file says which block it was drawn for, and ``--check --figures DIR`` compares it.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from galr_mm.cli.errors import one_line
from galr_mm.datasets.ucm import CLASSES, class_of
from galr_mm.evaluation import RecallAtK
from galr_mm.evaluation.runs import NAME, Ranks, Run, load_run
from galr_mm.functional import Interval, bootstrap_over_seeds, mean_and_sd
from galr_mm.functional.checks import is_finite
from galr_mm.messages import shorten
from galr_mm.utils.io import atomic_write, read_json, write_text
from galr_mm.visualization import Hit, draw_classes, draw_curves, draw_differences, draw_ranked_hits

BLOCK = re.compile(r'(<!-- table: (?P<head>[^\n]*)\n(?P<rows>.*?)-->\n)(?P<table>.*?)(<!-- end -->)', re.DOTALL)
SAME = ('name', 'config', 'options', 'rerank', 'init', 'feature_cache', 'data', 'model')  # in all seeds of a row
DIRECTIONS = ('i2t', 't2i')


@dataclass(frozen=True)
class Row:
    """The trainings of one configuration, by seed."""

    label: str
    runs: Mapping[int, Run]
    folder: Path

    @property
    def first(self) -> Run:
        """One of them, for what is the same in all."""
        return next(iter(self.runs.values()))

    @cached_property
    def rerankers(self) -> dict[str, str]:
        """Name and parameters of each re-ranker."""
        return self.first.record['rerank']

    def values(self, split: str, key: str = 'mR', prefix: str = 'raw') -> list[float]:
        """A metric of each seed."""
        return [run.record['metrics'][split][prefix][key] for run in self.runs.values()]

    def ranks(self, split: str, prefix: str = '') -> dict[int, Ranks]:
        """Ranks of each seed."""
        return {seed: run.splits[split].ranks[prefix] for seed, run in self.runs.items()}


class Extras(NamedTuple):
    """What some kinds of tables need besides their rows: where to draw, the images of the data set, the base row."""

    figure: Path | None = None
    images: Path | None = None
    base: Row | None = None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pages', nargs='*', type=Path, default=[Path('docs/results.md')], help='Markdown with blocks')
    parser.add_argument('--runs', type=Path, default=Path('docs/results/runs'), help='--out of run_seeds.py')
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 where one differs')
    parser.add_argument('--figures', type=Path, metavar='DIR', help='draw, or check, the figures that blocks name')
    parser.add_argument('--images', type=Path, metavar='DIR', help='images of the data set, for the sheets of captions')
    return parser.parse_args(argv)


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Make, or check, the tables of each page."""
    args = parse_args(argv)
    different = False
    for page in args.pages:
        if not page.is_file():
            raise SystemExit(f'no page at {page}')
        try:
            old = page.read_text(encoding='utf-8')
        except UnicodeDecodeError as error:
            raise SystemExit(f'{page} is not UTF-8 ({error})') from error
        new = BLOCK.sub(lambda block: f'{block[1]}\n{make_block(block, args)}\n{block[5]}', old)
        if old.count('<!-- table:') != len(BLOCK.findall(old)):
            raise SystemExit(f'{page}: a "<!-- table:" has no "-->" or no "<!-- end -->"')
        if args.check and old != new:
            different = True
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(page), 'made anew', lineterm='')
            print(*lines, sep='\n')
        elif old != new:
            write_text(page, new)
            print(f'{page} written')
        else:
            print(f'{page}: {len(BLOCK.findall(old))} tables are as the runs give them')
        for block in BLOCK.finditer(new):
            figure = figure_of(block, args)
            if figure and not args.check:
                mark(figure, block)
            elif figure and block_of(figure) != digest(block):
                different = True
                print(f'{figure} was not drawn for the block {block["head"]!r} of {page} as the runs give it')
    if different:
        raise SystemExit('tables or figures differ from the runs; without --check they are made anew')


def parse_head(block: re.Match[str]) -> tuple[str, dict[str, str]]:
    """Kind and options of a block."""
    kind, *words = block['head'].split() or ['']
    return kind, dict(word.partition('=')[::2] for word in words)


def figure_of(block: re.Match[str], args: argparse.Namespace) -> Path | None:
    """File of the figure of a block; None without one, or without --figures."""
    _, options = parse_head(block)
    return args.figures / f'{options["figure"]}.png' if args.figures and 'figure' in options else None


def digest(block: re.Match[str]) -> str:
    """SHA-256 of a block with its table."""
    return hashlib.sha256(block[0].encode()).hexdigest()


def mark(figure: Path, block: re.Match[str]) -> None:
    """Let a PNG say which block it was drawn for."""
    info = PngInfo()
    info.add_text('Source', f'sha256 {digest(block)}')
    with Image.open(figure) as image, atomic_write(figure) as part:
        image.save(part, format='png', pnginfo=info)


def block_of(figure: Path) -> str | None:
    """What :func:`mark` wrote; None where there is nothing, or no PNG."""
    try:
        with Image.open(figure) as image:
            return image.info.get('Source', '').removeprefix('sha256 ')
    except OSError:
        return None


def make_block(block: re.Match[str], args: argparse.Namespace) -> str:
    """The table of a block; draws its figure where that is asked for.

    Raises:
        SystemExit: when the block or its runs are not what they should be.
    """
    kind, options = parse_head(block)
    known = {'figure', *(['base'] if kind == 'ablation' else [])}
    if kind not in KINDS or options.keys() - known:
        kinds, names = ', '.join(KINDS), '=, '.join(sorted(known))
        raise SystemExit(f'table {block["head"]!r}: expected one of {kinds}, and {names}=')
    if not re.fullmatch(r'[\w-]+', options.get('figure', 'none')):
        raise SystemExit(
            f'table {block["head"]!r}: figure= is a name of letters, digits, _ and -, which becomes NAME.png'
        )
    lines = [line.partition(':') for line in block['rows'].splitlines() if line.strip()]
    labels = {name.strip(): label.strip() or name.strip() for name, _, label in lines}
    try:
        if not labels:
            raise ValueError('it names no runs')
        if wrong := [name for name in labels if not re.fullmatch(NAME, name)]:
            raise ValueError(f'{shorten(wrong[0])} is no --name of run_seeds.py')
        if len(labels) < len(lines) or len(set(labels.values())) < len(lines):
            raise ValueError('it names a run, or gives a label, twice')
        rows = {name: load_row(args.runs / name, label) for name, label in labels.items()}
        check_alike(rows)
        if kind == 'ablation' and options.get('base') not in rows:
            raise ValueError(f'base={options.get("base")} is not one of its runs')
        figure = None if args.check else figure_of(block, args)
        return KINDS[kind](list(rows.values()), Extras(figure, args.images, rows.get(options.get('base', ''))))
    except (ValueError, KeyError) as error:
        raise SystemExit(f'table {block["head"]!r}: {error}') from error


def load_row(folder: Path, label: str) -> Row:
    """All seeds of a folder.

    Raises:
        ValueError: when there is none, or they are not seeds of one configuration.
    """
    runs = [load_run(path) for path in folder.glob('seed_*.json')]
    runs = sorted(runs, key=lambda run: run.record['seed'])
    if not runs:
        raise ValueError(f'no seed_*.json in {folder}')
    if alone := [path for path in folder.glob('seed_*.npz') if not path.with_suffix('.json').is_file()]:
        raise ValueError(f'{alone[0]} has no .json beside it, so a seed is missing')
    for run in runs[1:]:
        other = [key for key in SAME if run.record[key] != runs[0].record[key]]
        other += ['tta'] if run.record.get('tta', False) != runs[0].record.get('tta', False) else []
        other += ['splits'] if run.splits.keys() != runs[0].splits.keys() else []
        if other:
            raise ValueError(f'{folder}: seeds {runs[0].record["seed"]} and {run.record["seed"]} differ in {other}')
    for key, what in (('config_sha256', 'the config, or one of its bases,'), ('inputs', 'a file that it reads')):
        if len({str(run.record[key]) for run in runs if key in run.record}) > 1:
            raise ValueError(f'{folder}: {what} was changed between seeds ({key})')
    for number, run in enumerate(runs):
        if same := [one.record['seed'] for one in runs[:number] if one.record['curve'] == run.record['curve']]:
            raise ValueError(
                f'{folder}: seeds {same[0]} and {run.record["seed"]} are one training: their curves are equal'
            )
    return Row(label, {run.record['seed']: run for run in runs}, folder)


def check_alike(rows: Mapping[str, Row]) -> None:
    """Rows of one table are measured on the same images and captions.

    Raises:
        ValueError: when they are not.
    """
    first = next(iter(rows.values()))
    for name, row in rows.items():
        for split, one in first.first.splits.items():
            two = row.first.splits.get(split, one)
            if one.images != two.images or one.owner.tolist() != two.owner.tolist():
                raise ValueError(f'{name} was measured on another {split} split than {first.label}')


def headline(rows: Sequence[Row], extras: Extras) -> str:
    """Mean and standard deviation over seeds of all recalls, raw, and of mR re-ranked."""
    settings: dict[str, str] = {}
    for row in rows:
        for name, value in row.rerankers.items():
            if settings.setdefault(name, value) != value:
                raise ValueError(f'the column of {name} would hold {settings[name]} and, for {row.label}, {value}')
    names = list(settings)
    header = ['model', 'seeds', 'weights', 'GFLOPs image / caption', 'val mR', 'test i2t R@1 / 5 / 10']
    header += ['test t2i R@1 / 5 / 10', 'test mR', *(f'test mR, {name}' for name in names)]
    cells = []
    for row in rows:
        cells.append(
            [
                row.label,
                str(len(row.runs)),
                *_size(row),
                plus_minus(row.values('val')),
                *(_recalls(row, direction) for direction in DIRECTIONS),
                _of(row, 'test'),
                *(_of(row, 'test', name) if name in row.rerankers else '' for name in names),
            ]
        )
    chance = rows[0].first.record['metrics']
    values = [f'{chance["val"]["chance"]["mR"]:.2f}']
    if 'test' in chance:
        test = chance['test']['chance']
        values += [' / '.join(f'{test[f"{d}/R@{k}"]:.1f}' for k in (1, 5, 10)) for d in DIRECTIONS]
        values.append(f'{test["mR"]:.2f}')
    cells.append(['chance', '', '', '', *values])
    return table(header, cells)


def ablation(rows: Sequence[Row], extras: Extras) -> str:
    """Differences of mR to a base row, with intervals over images and seeds."""
    header = [
        'variant',
        'seeds',
        'weights',
        'GFLOPs image / caption',
        'val mR',
        'val: difference',
        'test mR',
        'test: difference',
    ]
    base = extras.base or rows[0]
    cells: list[list[str]] = []
    shown: dict[str, dict[str, Interval]] = {}
    for row in rows:
        line = [row.label, str(len(row.runs)), *_size(row)]
        for split in ('val', 'test'):
            change = ''
            if row is not base and split in row.first.splits and split in base.first.splits:
                positives = base.first.splits[split].positives
                interval = bootstrap_over_seeds(base.ranks(split), row.ranks(split), positives)['mR']
                shown.setdefault(row.label, {})[split] = interval
                change = signed(interval)
            line += [_of(row, split), change]
        cells.append(line)
    if extras.figure:
        draw_differences(shown, extras.figure, base.label)
    return table(header, cells)


def rerankers(rows: Sequence[Row], extras: Extras) -> str:
    """What each re-ranker changes, with intervals over images and seeds."""
    header = ['model', 're-ranker', 'val mR', 'val: gain', 'test mR', 'test: gain']
    cells = []
    for row in rows:
        splits = [split for split in ('val', 'test') if split in row.first.splits]
        cells.append([row.label, 'raw', *(cell for split in splits for cell in (_of(row, split), ''))])
        for name, settings in row.rerankers.items():
            line = ['', f'`{name}`: {settings}']
            for split in splits:
                positives = row.first.splits[split].positives
                gain = bootstrap_over_seeds(row.ranks(split), row.ranks(split, name), positives)['mR']
                line += [_of(row, split, name), signed(gain)]
            cells.append(line)
    return table(header, cells)


def read_sweep(path: Path) -> dict[str, Any]:
    """What ``tools/rerank.py --sweep`` wrote.

    Raises:
        ValueError: when it is something else.
    """
    sweep = read_json(path)
    try:
        values = [sweep['raw'], sweep['default'], *(point['mR'] for point in sweep['points'])]
        whole = len(values) > 2 and isinstance(sweep['method'], str) and all(map(is_finite, values))
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f'{path} is not what tools/rerank.py --sweep writes')
    return dict(sweep)


def sweeps(rows: Sequence[Row], extras: Extras) -> str:
    """The best parameters of each re-ranker on val, beside its defaults."""
    cells = []
    for row in rows:
        paths = sorted(row.folder.glob('sweep_*.json'))
        if not paths:
            raise ValueError(f'{row.folder} has no sweep_*.json')
        found = sorted(map(read_sweep, paths), key=lambda sweep: -max(point['mR'] for point in sweep['points']))
        for sweep in found:
            best = max(sweep['points'], key=lambda point: point['mR'])
            setting = ', '.join(f'{name} = {value}' for name, value in best.items() if name != 'mR')
            gains = [f'{value - sweep["raw"]:+.2f}' for value in (sweep['default'], best['mR'])]
            cells.append([row.label, f'`{sweep["method"]}`', str(len(sweep['points'])), gains[0], setting, gains[1]])
    return table(['model', 're-ranker', 'settings', 'gain of its defaults', 'best setting', 'gain'], cells)


def curves(rows: Sequence[Row], extras: Extras) -> str:
    """Mean val mR by epoch, at twelve epochs at most."""
    recalls = {
        row.label: [{int(point['epoch']): point['mR'] for point in run.record['curve']} for run in row.runs.values()]
        for row in rows
    }
    if extras.figure:
        draw_curves(recalls, extras.figure)
    epochs = sorted({epoch for seeds in recalls.values() for curve in seeds for epoch in curve})
    step = -(-len(epochs) // 12)
    epochs = epochs[::-1][::step][::-1]
    cells = []
    for label, seeds in recalls.items():
        means = {e: [curve[e] for curve in seeds if e in curve] for e in epochs}
        cells.append([label, *(f'{mean_and_sd(means[e])[0]:.1f}' if means[e] else '' for e in epochs)])
    return table(['val mR by epoch', *map(str, epochs)], cells)


def runs(rows: Sequence[Row], extras: Extras) -> str:
    """Where each row comes from: initial weights, data, epochs, minutes, commit, command."""
    header = ['model', 'starts from', 'data', 'best epochs', 'minutes a seed', 'machine', 'commit', 'command']
    cells = []
    for row in rows:
        record, records = row.first.record, [run.record for run in row.runs.values()]
        data = record['data']
        counts = ' / '.join(f'{data[split]["images"]:,}' for split in ('train', 'val', 'test') if split in data)
        files = ', '.join(f'{Path(name).name} {digest[:8]}' for name, digest in data['files'].items())
        machines = {f'{r["machine"]["cores"]} cores, torch {r["machine"]["torch"]}' for r in records}
        machines |= {r['machine']['gpu'] for r in records if r['machine']['gpu']}
        commits = {_commits(r['code']) for r in records}
        one = f'--seeds {record["seed"]} '
        command = record['command'].replace(one, f'--seeds {" ".join(map(str, row.runs))} ', 1)
        minutes, _ = mean_and_sd([r['wall_minutes'] for r in records])
        cells.append(
            [
                row.label,
                '; '.join(record['init']) or 'random weights',
                f'{counts} images; {files}',
                ', '.join(str(r['best_epoch']) for r in records),
                f'{minutes:.1f}',
                '; '.join(sorted(machines)),
                ', '.join(sorted(commits)),
                f'`{command}`',
            ]
        )
    return table(header, cells)


def _commits(code: Mapping[str, Mapping[str, Any]]) -> str:
    """Commit of a training, and that of its test where it is another; + where files were changed."""
    trained, tested = (f'{at["commit"]}{"+" if at["dirty"] else ""}' for at in (code['trained'], code['evaluated']))
    return trained if tested == trained else f'{trained} (tested at {tested})'


def hardest(rows: Sequence[Row], extras: Extras) -> str:
    """The captions of the test split whose image has the worst rank, with what its first seed gave."""
    found = rows[0].first.record.get('hardest')
    if found is None or len(rows) > 1:
        raise ValueError('expected one run, with a test')
    if extras.figure:
        images = extras.images
        if images is None:
            raise ValueError('its figure needs --images')
        sheet = [
            (
                entry['caption'],
                [
                    *(Hit(str(images / name), score, name == entry['image']) for name, score in entry['returned']),
                    Hit(str(images / entry['image']), None, True, rank=entry['rank'] + 1),
                ],
            )
            for entry in found
        ]
        draw_ranked_hits(sheet, extras.figure, title=rows[0].label)
    cells = [
        [entry['caption'], f'{entry["image"]} at {entry["rank"] + 1}', ', '.join(name for name, _ in entry['returned'])]
        for entry in found
    ]
    return table(['caption', 'its image', 'returned'], cells)


def classes(rows: Sequence[Row], extras: Extras) -> str:
    """Mean recall of the queries of each class of UCM-captions, on test, mean over seeds."""
    recall = RecallAtK()
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        split = row.first.splits['test']
        kinds = [class_of(name) for name in split.images]
        for name in CLASSES:
            images = torch.tensor([kind == name for kind in kinds])
            inside = dict(i2t=images, t2i=images[split.owner])
            found = [recall({d: ranks[d][inside[d]] for d in DIRECTIONS})['mR'] for ranks in row.ranks('test').values()]
            values.setdefault(row.label, {})[name] = mean_and_sd(found)[0]
    if extras.figure:
        draw_classes(values, extras.figure)
    order = sorted(CLASSES, key=lambda name: -values[rows[0].label][name])
    cells = [[name, *(f'{values[row.label][name]:.1f}' for row in rows)] for name in order]
    return table(['class', *values], cells)


KINDS: dict[str, Callable[[Sequence[Row], Extras], str]] = {
    'headline': headline,
    'ablation': ablation,
    'rerankers': rerankers,
    'sweeps': sweeps,
    'curves': curves,
    'runs': runs,
    'hardest': hardest,
    'classes': classes,
}


def plus_minus(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation as text; the mean alone of one value.

    >>> plus_minus([20.0, 22.0, 24.0])
    '22.00 ± 2.00'
    """
    mean, deviation = mean_and_sd(values)
    return f'{mean:.{digits}f}' + (f' ± {deviation:.{digits}f}' if len(values) > 1 else '')


def signed(interval: Interval) -> str:
    """A difference with its interval as text.

    >>> signed(Interval(1.5, -0.25, 3.5))
    '+1.50 (-0.25 to +3.50)'
    """
    return f'{interval.difference:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A Markdown table; shorter rows are filled up.

    >>> print(table(['a', 'b'], [['1', '2'], ['x|y']]), end='')
    | a | b |
    | --- | --- |
    | 1 | 2 |
    | x\|y |  |
    """
    filled = [[*row, *[''] * (len(header) - len(row))] for row in rows]
    lines = [header, ['---'] * len(header), *filled]
    return ''.join('| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |\n' for line in lines)


def _size(row: Row) -> list[str]:
    """Weights of the model, and its FLOPs an image and a caption."""
    model = row.first.record['model']
    flops = ' / '.join(f'{model["flops"][tower] / 1e9:.2g}' for tower in ('image', 'text'))
    return [f'{model["parameters"]["total"]["all"] / 1e6:.1f} M', flops]


def _of(row: Row, split: str, prefix: str = 'raw') -> str:
    return plus_minus(row.values(split, 'mR', prefix)) if split in row.first.splits else ''


def _recalls(row: Row, direction: str) -> str:
    if 'test' not in row.first.splits:
        return ''
    return ' / '.join(plus_minus(row.values('test', f'{direction}/R@{k}'), 1) for k in (1, 5, 10))
