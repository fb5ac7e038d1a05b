"""``archive.py locate``: where in a scene a sentence is true, from the scene or from its tiles in an index."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galr_mm.apis import SceneLocalizer
from galr_mm.apis.archive_model import ArchiveModel
from galr_mm.archive import ArchiveIndex, scene_embeddings
from galr_mm.cli.common import require_writable
from galr_mm.imagery import SCALES, SceneReading
from galr_mm.integrations.gdal import to_degrees
from galr_mm.integrations.installation import require_module

KINDS = ('.tif', '.png', '.npy')


def add_locate(commands: Any, add_model: Callable[[argparse.ArgumentParser], None]) -> None:
    """The command and its flags."""
    find = commands.add_parser('locate', help='where in a scene a sentence is true, as a heat map')
    find.set_defaults(command=locate)
    find.add_argument('scene', type=Path, help='GeoTIFF or other image')
    find.add_argument('sentence', help='what to look for')
    find.add_argument(
        '--out', nargs='+', action='extend', type=Path, default=[], required=True, metavar='FILE',
        help='.tif: similarities with the place of the scene; .png: scaled to 0..255; .npy: similarities',
    )  # fmt: skip
    find.add_argument('--index', type=Path, metavar='DIR', help='take the tiles of this index, and encode nothing')
    find.add_argument('--scales', nargs='+', type=int, help=f'sides of the windows (default {SCALES})')
    find.add_argument('--median', type=int, default=0, help='side of a median filter for .png, 251 as published')
    add_model(find)
    add_scenes(find)


def add_scenes(parser: argparse.ArgumentParser) -> None:
    """Flags of how scenes are read."""
    parser.add_argument(
        '--bands', type=numbers_of(int), metavar='R,G,B',
        help='of scenes, from 1; one for gray (default: what the file says)',
    )  # fmt: skip
    parser.add_argument(
        '--scale', type=numbers_of(float), metavar='LO,HI',
        help='values of scenes that become black and white (default: 2 and 98 %% of each scene and band)',
    )  # fmt: skip
    add_trusted(parser)


def add_trusted(parser: argparse.ArgumentParser) -> None:
    """Flag of what may be read."""
    parser.add_argument('--trusted', action='store_true', help='also read VRT files, and whatever they name')


def numbers_of(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A parser of numbers with commas between them."""

    def numbers(text: str) -> tuple[Any, ...]:
        return tuple(map(kind, text.split(',')))

    return numbers


def locate(args: argparse.Namespace) -> None:
    """Make the map of a sentence, print where it is highest, and write it to files."""
    for path in args.out:
        if path.suffix not in KINDS or path.is_dir():
            raise ValueError(f'--out is {path}, expected a file name that ends in {", ".join(KINDS)}')
        if path.suffix == '.tif':
            require_module('rasterio', 'geo')
        require_writable(path.parent, '--out')
    if args.median and not any(path.suffix == '.png' for path in args.out):
        raise ValueError(f'--median is {args.median}, which filters a .png: --out names none')
    reading = SceneReading(args.bands, args.scale, args.trusted)
    if args.index and (args.scales or reading != SceneReading()):
        raise ValueError('--index takes tiles as they are: --scales, --bands, --scale and --trusted go without it')
    scene = args.scene
    if args.index:
        with ArchiveIndex(args.index) as index:
            scene, meta = scene_embeddings(index, args.scene), index.meta
    elif not args.trusted and not args.scene.is_file():
        raise FileNotFoundError(f'no scene at {args.scene}')
    model = ArchiveModel(args.model, args.checkpoint or True, args.device)
    if args.index:
        model.id.require(args.index, meta)
    found = SceneLocalizer(model.model, args.scales or SCALES, args.batch_size, reading)(scene, args.sentence)
    column, row = found.peak
    place = ''
    if found.place.crs is not None:
        a, b, c, d, e, f = found.place.transform
        longitude, latitude = to_degrees(found.place.crs, [a * column + b * row + c], [d * column + e * row + f])
        place = f', longitude {longitude[0]:.6f}, latitude {latitude[0]:.6f}'
    print(f'{args.scene}: highest similarity {found.cells[found.peak_cell]:.4f} at column {column}, row {row}{place}')
    for path in args.out:
        found.save(path, args.median)
        print(f'written to {path}')
