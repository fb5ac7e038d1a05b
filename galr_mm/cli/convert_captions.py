"""Turn caption lists into the Karpathy-style json the data sets read, and make its vocabulary.

SOURCE is a folder of released lists (``train_filename.txt``, ``train_caps.txt``, ...), a Karpathy-style json, COCO
captions, the json of NWPU-Captions, a list of images with captions (json, jsonl) or a table (csv, tsv) with columns
such as filename, caption and split. ``train=FILE`` gives the split of a list that has none; ``rsicd_train.json`` says
it by its name. Blank captions are dropped. Without a val split a seeded fraction of the training images is drawn for
it, and written down::

    python tools/dataset_converters/convert_captions.py data/rsitmd/rsitmd_precomp \
        --images data/rsitmd/images --out data/rsitmd/dataset_rsitmd.json
    python tools/dataset_converters/convert_captions.py train=a.csv test=b.csv --out data/mine/captions.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galr_mm.cli.errors import one_line
from galr_mm.datasets.caption_formats import read_captions, split_and_path
from galr_mm.datasets.captions import SPLITS, draw_val, number_records, sentid_problem
from galr_mm.datasets.conversion import build_vocabulary, clean_records, describe_vocabulary, match_files
from galr_mm.utils.io import write_text


def convert(sources: Sequence[str], images: Path | None, out: Path, fraction: float, seed: int) -> None:
    """Write the json and the vocabulary beside it."""
    paths = [split_and_path(source)[1] for source in sources]
    if out.resolve() in (path.resolve() for path in paths) or out.name == 'vocabulary.json':
        raise ValueError(f'--out is {out}, expected a new json such as dataset_rsitmd.json')
    cleaned = clean_records(read_captions(sources), ', '.join(sources))
    for split, summary in cleaned.summaries.items():
        print(f'{split}: {summary}')
    records = cleaned.records
    note = {'source': ', '.join(path.name for path in paths)} | draw_missing_val(records, fraction, seed)
    if images:
        changed = match_files(records, images)
        if changed:
            print(f'{changed} names matched to those in {images}')
    # sentence ids stay those of the source, so that vectors made for it still fit
    problem = sentid_problem(records)
    if problem:
        if any('sentid' in sentence for record in records for sentence in record['sentences']):
            print(f'sentences are numbered anew: {problem}')
        number_records(records)
    write_text(out, json.dumps({**note, 'images': records}, ensure_ascii=False))
    counts = ', '.join(f'{sum(r["split"] == split for r in records)} {split}' for split in SPLITS)
    print(f'{counts} images written to {out}')
    vocabulary = build_vocabulary(records)
    vocabulary.save(out.with_name('vocabulary.json'))
    print(describe_vocabulary(vocabulary, records))


def draw_missing_val(records: list[dict[str, Any]], fraction: float, seed: int) -> dict[str, Any]:
    """Draw a val split where there is none; what the json says about it, empty where nothing was drawn."""
    splits = {record['split'] for record in records}
    if 'test' not in splits:
        print('there is no test split in this list')
    if 'val' in splits:
        return {}
    drawn = draw_val(records, fraction, seed)
    print(f'no val split: {drawn} training images drawn for it (fraction {fraction}, seed {seed})')
    return {'val': {'drawn_from': 'train', 'fraction': fraction, 'seed': seed}}


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', nargs='+', metavar='[SPLIT=]SOURCE', help='caption lists, see above')
    parser.add_argument('--out', type=Path, required=True, help='json to write; vocabulary.json goes beside it')
    parser.add_argument('--images', type=Path, help='image folder: checks that all are there, corrects file types')
    parser.add_argument('--val-fraction', type=float, default=0.2, help='of the training images, where val is missing')
    parser.add_argument('--seed', type=int, default=0, help='of that draw')
    parser.add_argument('--overwrite', action='store_true', help='replace --out and the vocabulary beside it')
    args = parser.parse_args(argv)
    existing = [path for path in (args.out, args.out.with_name('vocabulary.json')) if path.exists()]
    if existing and not args.overwrite:
        raise SystemExit(
            f'{existing[0]} exists; --overwrite replaces it (checkpoints need the vocabulary of their training)'
        )
    convert(args.source, args.images, args.out, args.val_fraction, args.seed)
