"""Make a vocabulary of the training captions of a Karpathy-style json; report unknown words of val and test."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from galr_mm.datasets.captions import SPLITS, load_karpathy
from galr_mm.text import Vocabulary


def build(captions: Path, out: Path, min_count: int = 1) -> Vocabulary:
    """Write the vocabulary and print what it covers."""
    records = load_karpathy(captions)
    by_split = {
        split: [s['raw'] for r in records if r['split'].replace('restval', 'train') == split for s in r['sentences']]
        for split in SPLITS
    }
    if not by_split['train']:
        raise ValueError(f'{captions} holds no training captions')
    if out.resolve() == captions.resolve():
        raise ValueError(f'--out is the caption file {captions} itself')
    vocabulary = Vocabulary.from_captions(by_split['train'], min_count)
    if len(vocabulary) == 2:
        raise ValueError(f'no word occurs {min_count} times in the training captions of {captions}')
    vocabulary.save(out)
    print(
        f'{len(vocabulary) - 2} words that occur at least {min_count} times in {len(by_split["train"])} training '
        'captions'
    )
    for split in ('val', 'test'):
        unknown = vocabulary.unknown_words(by_split[split])
        common = ', '.join(word for word, _ in unknown.most_common(10))
        print(f'{split}: {len(unknown)} unknown words, {sum(unknown.values())} times{": " + common if common else ""}')
    print(f'written to {out}')
    return vocabulary


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('captions', type=Path, help='Karpathy-style json')
    parser.add_argument('--out', type=Path, help='default: vocabulary.json beside the captions')
    parser.add_argument('--min-count', type=int, default=1, help='leave rarer words to the unknown word (default 1)')
    args = parser.parse_args(argv)
    try:
        build(args.captions, args.out or args.captions.with_name('vocabulary.json'), args.min_count)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
