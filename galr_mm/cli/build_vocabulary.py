"""Make a vocabulary of the training captions of a Karpathy-style json; report unknown words of val and test."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from galr_mm.cli.errors import one_line
from galr_mm.datasets.captions import load_karpathy
from galr_mm.datasets.conversion import build_vocabulary, describe_vocabulary


def build(captions: Path, out: Path, min_count: int) -> None:
    """Write the vocabulary and print what it covers."""
    if out.resolve() == captions.resolve():
        raise ValueError(f'--out is the caption file {captions} itself')
    records = load_karpathy(captions)
    try:
        vocabulary = build_vocabulary(records, min_count)
    except ValueError as error:
        raise ValueError(f'{captions}: {error}') from error
    vocabulary.save(out)
    print(describe_vocabulary(vocabulary, records))
    print(f'written to {out}')


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('captions', type=Path, help='Karpathy-style json')
    parser.add_argument('--out', type=Path, help='default: vocabulary.json beside the captions')
    parser.add_argument('--min-count', type=int, default=1, help='leave rarer words to the unknown word (default 1)')
    args = parser.parse_args(argv)
    build(args.captions, args.out or args.captions.with_name('vocabulary.json'), args.min_count)
