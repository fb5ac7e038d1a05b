"""Index an archive of images and search it: ``python tools/archive.py COMMAND ...``.

::

    archive.py index ARCHIVE --index DIR --model CONFIG --checkpoint CKPT     again: only what is new or changed
    archive.py search DIR "planes beside a terminal" --out hits.html          or --image FILE
    archive.py locate SCENE "planes beside a terminal" --out planes.tif       a heat map; --index DIR: from its tiles
    archive.py check DIR
    archive.py info DIR
    archive.py export DIR --out all.geojson
    archive.py compact DIR                                                     drop the vectors of deleted images
    archive.py bank DIR CAPTIONS.json --model CONFIG --checkpoint CKPT        for search --rerank
    archive.py serve DIR --model CONFIG --checkpoint CKPT                     a page for a browser
    archive.py fill DIR http://localhost:19530                                 a Milvus, for search --engine

docs/archive.md says what an index holds and promises.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.device import get_device

from galr_mm.apis import ArchiveIndexer, ArchiveSearcher, pretrained_models
from galr_mm.apis.archive import words_of
from galr_mm.archive import ArchiveIndex, Hit, Where, check_index, export_hits, open_writer
from galr_mm.archive.bank import METHODS
from galr_mm.archive.catalog import NAME as CATALOG
from galr_mm.archive.export import WRITERS
from galr_mm.archive.places import MERGES
from galr_mm.cli import archive_engine, archive_locate, errors
from galr_mm.cli.common import require_writable
from galr_mm.datasets.captions import clean_split, load_karpathy
from galr_mm.functional.checks import check_whole
from galr_mm.imagery import SceneReading
from galr_mm.imagery.files import ImageFolder, listed_names
from galr_mm.integrations.installation import require_module
from galr_mm.messages import escaped, printable, reason
from galr_mm.serve import serve
from galr_mm.utils.allocator import keep_freed_memory

SHOWN = 20  # skipped files on the screen


@errors.one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run a command."""
    args = parse_args(argv)
    command: Callable[[argparse.Namespace], None] = args.command
    if getattr(args, 'device', None) == 'cpu':
        keep_freed_memory()
    try:
        command(args)
    except sqlite3.Error as error:
        raise SystemExit(escaped(f'{args.index / CATALOG} cannot be used: {error}')[: errors.LONGEST]) from error
    except Exception as error:  # whatever it is, it ends in one line
        known = str(error) and isinstance(error, (OSError, ValueError, TypeError, ImportError, RuntimeError))
        message = ' '.join(str(error).split()) if known else f'{args.index or args.scene}: {reason(error)}'
        raise SystemExit(escaped(message)[: errors.LONGEST]) from error
    except KeyboardInterrupt:
        raise SystemExit('stopped; what was committed stays, and the same command goes on from there') from None


def index(args: argparse.Namespace) -> None:
    """Make an index, or bring it up to date."""
    scenes = SceneReading(args.bands, args.scale, args.trusted)
    indexer = ArchiveIndexer(
        args.model, args.index, args.checkpoint or True, args.device, args.tile, args.overlap, args.min_valid, scenes
    )
    progress = sys.stderr.isatty()
    report = indexer.update(args.archive, args.metadata, args.prune, args.batch_size, progress, args.name_pattern)
    for name, why in report.skipped[:SHOWN]:
        print(f'skipped {printable(name)!r}: {escaped(why)}')
    if len(report.skipped) > SHOWN:
        print(f'... and {len(report.skipped) - SHOWN} more; `archive.py info {args.index} --skipped` lists all')
    print(f'{args.index}: {report}')


def search(args: argparse.Namespace) -> None:
    """Search by sentences and images, print hits and write them to files."""
    queries: list[str | Path] = [*args.sentence, *map(Path, args.image)]
    if not queries:
        raise ValueError(
            'nothing to search for; give a sentence, before options that take several values, or --image FILE'
        )
    if args.bank and not args.rerank:
        raise ValueError(f'--bank is {args.bank}, which re-ranks: say how with --rerank')
    if args.or_exact and not args.engine:
        raise ValueError('--or-exact is for where an engine fails: name it with --engine')
    check_outputs(args.out)
    where = where_of(args)
    searcher = ArchiveSearcher(
        args.model,
        args.index,
        args.checkpoint or True,
        args.device,
        args.bank,
        args.engine,
        args.or_exact,
        args.trusted,
    )
    found = searcher(queries, args.topk, where, args.rerank, merge=args.merge)
    for query, hits in zip(queries, found, strict=True):
        print(f'{escaped(words_of(query))}: {f"{len(hits)} hits" if hits else "nothing was found"}')
        for rank, hit in enumerate(hits, start=1):
            print(f'{rank:4d}  {line_of(hit)}')
    for path in args.out:
        export_hits([(words_of(query), hits) for query, hits in zip(queries, found, strict=True)], path, args.trusted)
        print(f'written to {path}')


def check(args: argparse.Namespace) -> None:
    """Read everything once, or compare an engine with the index; problems are an exit code of 1."""
    check_whole('--queries', args.queries)
    if args.engine or args.repair:
        archive_engine.check(args)
        return
    with ArchiveIndex(args.index) as opened:
        report = check_index(opened, args.queries)
    for problem in report.problems:
        print(escaped(problem))
    print(f'{args.index}: {report.tiles} tiles, {report.queries} searches compared, recall {report.recall:.4f}')
    if report.problems:
        raise SystemExit(f'{args.index}: {len(report.problems)} problems')


def info(args: argparse.Namespace) -> None:
    """Print what an index holds."""
    with ArchiveIndex(args.index) as opened:
        counts, sources = opened.catalog.counts(), opened.catalog.sources()
        size = sum(path.stat().st_size for path in args.index.rglob('*') if path.is_file())
        print(f'archive      {escaped(str(opened.archive))}')
        print(f'model        {opened.meta["model"]}')
        print(f'fingerprint  {opened.meta["fingerprint"]}')
        print(f'images cut   {opened.meta.get("cut")}')
        print(f'files        {counts["ok"]} searched, {counts["unreadable"]} unreadable, {counts["gone"]} gone')
        print(f'tiles        {counts["tiles"]} searched, {counts["placed"]} of them with a place')
        scenes = opened.catalog.scene_counts()
        if scenes['scenes']:
            print(
                f'scenes       {scenes["scenes"]}, {scenes["unplaced"]} of them without a place; '
                f'{scenes["empty_tiles"]} tiles without data are left out'
            )
        kept = len(opened.catalog.rows_not_deleted())
        print(f'rows         {counts["rows"]}, of which `archive.py compact` keeps {kept}')
        print(f'on disk      {size / 2**20:.1f} MiB, format {opened.meta["format"]}')
    if args.skipped:
        for path, known in sorted(sources.items()):
            if known.status == 'unreadable':
                print(f'unreadable {printable(os.fsdecode(path))!r}: {escaped(known.reason or "")}')


def export_all(args: argparse.Namespace) -> None:
    """Write all tiles that pass a filter."""
    check_outputs(args.out)
    with ArchiveIndex(args.index) as opened, opened.snapshot():
        tiles = opened.catalog.tiles(opened.catalog.rows_where(where_of(args)).tolist())
        hits = [Hit.of(tiles[row], opened.archive) for row in sorted(tiles)]
    for path in args.out:
        export_hits([('all', hits)], path, args.trusted)
        print(f'{len(hits)} tiles written to {path}')


def compact(args: argparse.Namespace) -> None:
    """Rewrite the vectors without those of deleted tiles."""
    with open_writer(args.index) as writer:
        print(f'{args.index}: {writer.compact()} vectors dropped')


def bank(args: argparse.Namespace) -> None:
    """Encode the captions of a split as a query bank."""
    check_whole('--max', args.max)
    records = clean_split(load_karpathy(args.captions), args.split, args.captions).records
    captions = list(dict.fromkeys(sentence['raw'] for record in records for sentence in record['sentences']))
    captions, images = captions[: args.max], []
    if args.img_root:
        listed = list(map(listed_names, records[: args.max]))
        images = [
            args.img_root / name for name in ImageFolder(args.img_root).locate(listed, f'images of {args.captions}')
        ]
    indexer = ArchiveIndexer(args.model, args.index, args.checkpoint or True, args.device)
    path = indexer.make_bank(captions, images, args.batch_size)
    print(f'{path}: {len(captions)} captions, {len(images)} images')


def show_page(args: argparse.Namespace) -> None:
    """Show an index as a page for a browser."""
    serve(args.model, args.index, args.checkpoint or True, args.device, args.host, args.port)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """A sub-command with its options."""
    parser = argparse.ArgumentParser(
        prog='archive.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    add = commands.add_parser('index', help='make an index, or bring it up to date')
    add.set_defaults(command=index)
    add.add_argument('archive', type=Path, help='folder of images, searched with its sub-folders')
    add.add_argument('--index', type=Path, required=True, metavar='DIR', help='folder of the index')
    add_model(add)
    add.add_argument('--tile', type=int, metavar='N', help='cut images with a longer side into tiles of N x N pixels')
    add.add_argument('--overlap', type=int, default=0, help='pixels that neighboring tiles share (default 0)')
    add.add_argument('--metadata', type=Path, metavar='CSV', help='table: path, datetime, platform, gsd, west, ...')
    add.add_argument(
        '--name-pattern', metavar='REGEX', help='what names of files say: groups datetime, platform, gsd and any others'
    )
    archive_locate.add_scenes(add)
    add.add_argument(
        '--min-valid', type=float, default=0.5, help='leave out tiles of scenes that hold less data (default 0.5)'
    )
    add.add_argument('--prune', action='store_true', help='delete images that have vanished, in place of hiding them')

    find = commands.add_parser('search', help='find images by sentences and images')
    find.set_defaults(command=search)
    find.add_argument('index', type=Path, help='folder of the index')
    find.add_argument('sentence', nargs='*', help='what to look for')
    find.add_argument(
        '--image', nargs='+', action='extend', default=[], metavar='FILE', help='look for images like these'
    )
    add_model(find)
    find.add_argument('--topk', type=int, default=10, help='hits of each query (default 10)')
    find.add_argument('--min-score', type=float, help='leave out hits with a lower cosine')
    find.add_argument(
        '--merge', choices=MERGES, default='tiles',
        help='hits that are one place: tiles of one file that overlap (default), also of other files, or none',
    )  # fmt: skip
    find.add_argument('--rerank', choices=METHODS, help='re-rank by a bank of queries')
    find.add_argument('--bank', type=Path, metavar='NPZ', help='the bank (default: the one in the index)')
    add_filter(find)
    archive_engine.add_engine(find)
    archive_locate.add_trusted(find)
    add_out(find)

    test = commands.add_parser('check', help='whether an index is whole and exact')
    test.set_defaults(command=check)
    test.add_argument('index', type=Path)
    test.add_argument('--queries', type=int, default=50, help='searches to compare (default 50)')
    archive_engine.add_check(test)

    tell = commands.add_parser('info', help='what an index holds')
    tell.set_defaults(command=info)
    tell.add_argument('index', type=Path)
    tell.add_argument('--skipped', action='store_true', help='list files that could not be read')

    write = commands.add_parser('export', help='write all tiles of an index')
    write.set_defaults(command=export_all)
    write.add_argument('index', type=Path)
    add_filter(write)
    archive_locate.add_trusted(write)
    add_out(write, required=True)

    drop = commands.add_parser('compact', help='drop the vectors of deleted images')
    drop.set_defaults(command=compact)
    drop.add_argument('index', type=Path)

    fill = commands.add_parser('bank', help='captions of a training split, for --rerank')
    fill.set_defaults(command=bank)
    fill.add_argument('index', type=Path)
    fill.add_argument('captions', type=Path, help='Karpathy-style json')
    fill.add_argument('--split', default='train', help='(default train)')
    fill.add_argument('--img-root', type=Path, help='take the images of this folder too, for queries by images')
    fill.add_argument('--max', type=int, default=5000, help='at most so many captions, and images (default 5000)')
    add_model(fill)

    archive_engine.add_fill(commands)
    archive_locate.add_locate(commands, add_model)

    page = commands.add_parser('serve', help='search in a browser')
    page.set_defaults(command=show_page)
    page.add_argument('index', type=Path)
    add_model(page, batches=False)
    page.add_argument('--host', default='127.0.0.1', help='address to listen on (default: this machine alone)')
    page.add_argument('--port', type=int, default=8000, help='(default 8000; 0 takes a free one)')
    args, rest = parser.parse_known_args(argv)
    if args.command is search and not any(word.startswith('-') for word in rest):
        args.sentence += rest  # those behind options, which argparse leaves over
    elif rest:
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    return args


def add_model(parser: argparse.ArgumentParser, batches: bool = True) -> None:
    """Flags of the model."""
    shipped = pretrained_models()
    default = f'default {shipped[0]}' if shipped else 'needed: no model comes with this installation'
    parser.add_argument('--model', help=f'name of a shipped config, or a config file ({default})')
    parser.add_argument('--checkpoint', help='its weights; not needed where they come with the package or the config')
    parser.add_argument('--device', default=get_device(), help='default: the GPU where there is one')
    if batches:
        parser.add_argument('--batch-size', type=int, default=8, help='images at a time (default 8)')


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Flags of a filter."""
    parser.add_argument(
        '--bbox', nargs=4, type=float, metavar=('W', 'S', 'E', 'N'),
        help='degrees; W > E crosses the antimeridian',
    )  # fmt: skip
    parser.add_argument('--date', metavar='A/B', help='from A to B, either may be left out: 2021-06-01/2021-06-30')
    parser.add_argument('--platform', nargs='+', action='extend', help='one of these')
    parser.add_argument('--gsd', metavar='A/B', help='meters a pixel from A to B, either may be left out: 0.3/1')
    parser.add_argument('--where', nargs='+', action='extend', default=[], metavar='KEY=VALUE', help='fields')


def add_out(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Flag of the files to write."""
    kinds = ', '.join(WRITERS)
    parser.add_argument(
        '--out', nargs='+', action='extend', type=Path, default=[], required=required, help=f'files that end in {kinds}'
    )


def where_of(args: argparse.Namespace) -> Where:
    """The filter of the flags."""
    start, slash, end = (args.date or '/').partition('/')
    wrong = [pair for pair in args.where if '=' not in pair]
    if not slash or wrong:
        raise ValueError(f'--where: {wrong[0]!r} is not KEY=VALUE' if wrong else f'--date is {args.date!r}, not A/B')
    low, slash, high = (args.gsd or '/').partition('/')
    try:
        gsd = float(low) if low else None, float(high) if high else None
    except ValueError:
        slash = ''
    if not slash:
        raise ValueError(f'--gsd is {args.gsd!r}, not A/B in meters')
    return Where(
        bbox=None if args.bbox is None else tuple(args.bbox),
        start=start or None,
        end=end or None,
        platform=args.platform,
        gsd=gsd if any(value is not None for value in gsd) else None,
        metadata=dict(pair.split('=', 1) for pair in args.where),
        min_score=getattr(args, 'min_score', None),
    )


def check_outputs(paths: Sequence[Path]) -> None:
    """Stop before long work whose result could not be written."""
    for path in paths:
        if path.suffix.lower() not in WRITERS or path.is_dir():
            raise ValueError(f'--out is {path}, expected a file name that ends in {", ".join(WRITERS)}')
        if path.suffix.lower() == '.parquet':
            require_module('pyarrow', 'geo')
        require_writable(path.parent, '--out')


def line_of(hit: Hit) -> str:
    """A hit on the screen."""
    parts = ['' if hit.score is None else f'{hit.score:.4f}', hit.path]
    parts += [] if hit.is_whole else [f'window {",".join(map(str, hit.window))}']
    parts += [part for part in (hit.time, hit.platform) if part]
    return escaped('  '.join(parts))
