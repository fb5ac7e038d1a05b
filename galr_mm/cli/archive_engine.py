"""The part of ``tools/archive.py`` that fills a Milvus from an index, and compares the two."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from galr_mm.archive import ArchiveIndex, check_engine, fill_engine, open_writer
from galr_mm.messages import escaped

ADDRESS = 'a path that ends in .db (Milvus Lite), or http://host:19530 of a server; with #NAME another collection'


def fill(args: argparse.Namespace) -> None:
    """Bring an engine to the state of an index."""
    with open_writer(args.index) as writer:
        report = fill_engine(writer, args.engine, show_progress=sys.stderr.isatty())
    print(f'{args.engine}: {report}')


def check(args: argparse.Namespace) -> None:
    """Compare an engine with an index; problems are an exit code of 1."""
    if not args.engine:
        raise ValueError('--repair repairs an engine: name it with --engine')
    if args.repair:
        with open_writer(args.index) as writer:
            print(f'{args.engine}: {fill_engine(writer, args.engine, True, sys.stderr.isatty())}')
    with ArchiveIndex(args.index) as opened:
        report = check_engine(opened, args.engine, args.queries)
    for problem in report.problems:
        print(escaped(f'{args.engine}: {problem}'))
    print(f'{args.engine}: {report.tiles} tiles, {report.queries} searches compared, recall {report.recall:.4f}')
    if report.problems:
        raise SystemExit(
            f'{args.engine}: {len(report.problems)} problems; `archive.py check {args.index} --engine {args.engine} '
            '--repair` sends what is missing'
        )


def add_fill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The sub-command that fills."""
    parser = commands.add_parser('fill', help='fill a Milvus from an index, or bring it up to date; encodes nothing')
    parser.set_defaults(command=fill)
    parser.add_argument('index', type=Path, help='folder of the index')
    parser.add_argument('engine', help=ADDRESS)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Flags of a search."""
    parser.add_argument('--engine', help=f'search there: {ADDRESS}')
    parser.add_argument('--or-exact', action='store_true', help='compare all vectors where the engine fails')


def add_check(parser: argparse.ArgumentParser) -> None:
    """Flags of a check."""
    parser.add_argument('--engine', help=f'compare it with the index: {ADDRESS}')
    parser.add_argument(
        '--repair', action='store_true', help='send what the engine lacks, delete what it should not have'
    )
