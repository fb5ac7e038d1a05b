"""Turn caption lists into the Karpathy-style json the data sets read, and make its vocabulary.

SOURCE is a folder of released lists (``train_filename.txt``, ``train_caps.txt``, ...) or a Karpathy-style json. Blank
captions are dropped. Without a val split a seeded share of the training images is drawn for it, and written down::

    python tools/dataset_converters/convert_captions.py data/rsitmd/rsitmd_precomp \
        --images data/rsitmd/images --out data/rsitmd/dataset_rsitmd.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from galr_mm.cli.build_vocabulary import build
from galr_mm.datasets.captions import (
    HOW_TO_GET_DATA,
    SPLITS,
    clean_split,
    draw_val,
    load_karpathy,
    number_records,
    read_precomp,
)
from galr_mm.utils.io import write_text


def match_files(records: list[dict], folder: Path) -> int:
    """Give records the names their images have in ``folder``, where they differ in the file type only.

    Returns:
        How many names were changed.

    Raises:
        FileNotFoundError: when images are missing; names the first of them.
        ValueError: when two images differ in the file type only and neither is the listed one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no image folder at {folder}. {HOW_TO_GET_DATA}')
    names = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    by_stem: dict[str, list[str]] = {}
    for name in sorted(names):
        by_stem.setdefault(str(Path(name).with_suffix('')), []).append(name)
    changed, missing = 0, []
    for record in records:
        if record['filename'] in names:
            continue
        found = by_stem.get(str(Path(record['filename']).with_suffix('')), [])
        if len(found) > 1:
            raise ValueError(f'{record["filename"]} is not in {folder}, and {", ".join(found)} could all stand for it')
        if found:
            record['filename'] = found[0]
            changed += 1
        else:
            missing.append(record['filename'])
    twice = [name for name, count in Counter(record['filename'] for record in records).items() if count > 1]
    if twice:
        raise ValueError(f'{twice[0]} in {folder} stands for more than one listed image')
    if missing:
        raise FileNotFoundError(
            f'{len(missing)} of {len(records)} images are not in {folder} under any file type: '
            f'{", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}. {HOW_TO_GET_DATA}'
        )
    return changed


def convert(source: Path, images: Path | None, out: Path, fraction: float, seed: int) -> None:
    """Write the json and the vocabulary beside it."""
    if out.resolve() == source.resolve() or out.name == 'vocabulary.json':
        raise ValueError(f'--out is {out}, expected a new json such as dataset_rsitmd.json')
    records = read_precomp(source) if source.is_dir() else load_karpathy(source)
    kept: list[dict] = []
    note: dict = {'source': source.name}
    for split in SPLITS:
        if split == 'train' or any(record['split'] == split for record in records):
            clean = clean_split(records, split, source)
            kept += clean.records
            if clean.summary():
                print(f'{split}: {clean.summary()}')
    for record in kept:
        record['split'] = 'train' if record['split'] == 'restval' else record['split']
    if not any(record['split'] == 'test' for record in kept):
        print('there is no test split in this list')
    if not any(record['split'] == 'val' for record in kept):
        drawn = draw_val(kept, fraction, seed)
        note['val'] = {'drawn_from': 'train', 'fraction': fraction, 'seed': seed}
        print(f'no val split: {drawn} training images drawn for it (fraction {fraction}, seed {seed})')
    if images:
        changed = match_files(kept, images)
        if changed:
            print(f'{changed} names fitted to the file types in {images}')
    # numbers of sentences stay those of the source, so that vectors made for it still fit
    if any(s.get('sentid') is None for record in kept for s in record['sentences']):
        number_records(kept)
    write_text(out, json.dumps({**note, 'images': kept}, ensure_ascii=False))
    counts = ', '.join(f'{sum(r["split"] == split for r in kept)} {split}' for split in SPLITS)
    print(f'{counts} images written to {out}')
    build(out, out.with_name('vocabulary.json'))


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='folder of released lists, or Karpathy-style json')
    parser.add_argument('--out', type=Path, required=True, help='json to write; vocabulary.json goes beside it')
    parser.add_argument('--images', type=Path, help='image folder: checks that all are there, mends file types')
    parser.add_argument('--val-fraction', type=float, default=0.2, help='of the training images, where val is missing')
    parser.add_argument('--seed', type=int, default=0, help='of that draw')
    parser.add_argument('--overwrite', action='store_true', help='replace --out and the vocabulary beside it')
    args = parser.parse_args(argv)
    existing = [path for path in (args.out, args.out.with_name('vocabulary.json')) if path.exists()]
    if existing and not args.overwrite:
        raise SystemExit(
            f'{existing[0]} exists; --overwrite replaces it (checkpoints need the vocabulary of their training)'
        )
    try:
        convert(args.source, args.images, args.out, args.val_fraction, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
