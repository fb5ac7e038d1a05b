"""Make scenes with known answers for semantic localization, in the format of AIR-SLT.

Images of a data set stand side by side in a grid; sentences are captions of some of them, true in all tiles of the same
class. ``OUT/scenes/*.jpg`` and ``OUT/anno.json`` are what ``tools/eval_selo.py`` reads::

    python tools/dataset_converters/make_selo_mosaics.py data/rsicd/dataset_rsicd.json --out data/rsicd_selo \
        --class-pattern "([a-z]+)_"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from galr_mm.cli.errors import one_line
from galr_mm.datasets.captions import SPLITS, clean_split, load_karpathy
from galr_mm.datasets.localization import write_air_slt
from galr_mm.datasets.mosaics import classes_of, draw_mosaic, make_mosaic
from galr_mm.imagery.files import ImageFolder, listed_names


def make(source: Path, images: Path, out: Path, args: argparse.Namespace) -> None:
    """Write the scenes, then the annotations."""
    cleaned = clean_split(load_karpathy(source), args.split, source).records
    records, classes = classes_of(cleaned, args.class_pattern)
    if len(records) < len(cleaned):
        print(f'{len(cleaned) - len(records)} of {len(cleaned)} images left out: their names tell no class')
    files = ImageFolder(images).locate(list(map(listed_names, records)), f'images of {source}')
    (out / 'scenes').mkdir(parents=True, exist_ok=True)
    cases = []
    for number in tqdm(range(args.scenes), 'scenes', disable=None):
        rng = np.random.default_rng([args.seed, number])
        tiles, queries = draw_mosaic(records, classes, args.grid, args.sentences, rng)
        name = f'{number:04d}.jpg'
        paths = [images / files[index] for index in tiles]
        scene, found = make_mosaic(paths, queries, args.grid, args.tile, name)
        _, code = cv2.imencode('.jpg', scene, [cv2.IMWRITE_JPEG_QUALITY, 95])
        (out / 'scenes' / name).write_bytes(code.tobytes())
        cases += found
    write_air_slt(out / 'anno.json', cases)
    regions = sum(len(case.regions) for case in cases) / len(cases)
    print(f'{args.scenes} scenes with {len(cases)} sentences, {regions:.2f} regions each, written to {out}')


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='Karpathy-style json')
    parser.add_argument('--images', type=Path, help='image folder (default: images beside the json)')
    parser.add_argument('--out', type=Path, required=True, help='folder for scenes/ and anno.json')
    parser.add_argument('--split', choices=SPLITS, default='test')
    parser.add_argument(
        '--class-pattern', metavar='REGEX', help='the first group is the class of a file name; default: each its own'
    )
    parser.add_argument('--scenes', type=int, default=20)
    parser.add_argument('--grid', type=int, default=6, help='tiles a side')
    parser.add_argument('--tile', type=int, default=512, help='pixels of a side of a tile')
    parser.add_argument('--sentences', type=int, default=3, help='of a scene, at most')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f'--seed is {args.seed}, expected 0 or more')
    for name in ('scenes', 'grid', 'tile', 'sentences'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} is {getattr(args, name)}, expected 1 or more')
    make(args.source, args.images or args.source.parent / 'images', args.out, args)
