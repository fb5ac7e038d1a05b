"""Memory and speed of large scenes: ``python -m benchmarks.bench_scenes [--side 30000] [--strips]``.

A generated GeoTIFF of three bands of 16 bit, compressed and without overviews, is indexed in tiles of 512 px that
overlap by 64, by an encoder that takes the mean of some pixels. What is printed: the growth of the process's memory
at its highest, windows a second, and the seconds of the stretch, for which such a scene is read once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.bench_archive import growth
from galr_mm.archive import Cut, Encoded, ModelId, Piece, open_writer, update_archive
from galr_mm.imagery import Scene
from galr_mm.integrations.gdal import rasters

CUT = Cut(512, 64)
BLOCK = 512


def make_scene(path: Path, side: int, strips: bool) -> None:
    """A scene whose rows of blocks differ."""
    rng = np.random.default_rng(0)
    row = rng.integers(200, 2000, (3, BLOCK, side // 8 + 1), np.uint16).repeat(8, axis=2)[:, :, :side]
    layout = dict(tiled=False) if strips else dict(tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
    with rasters():
        import rasterio

        with rasterio.open(
            path, 'w', driver='GTiff', width=side, height=side, count=3, dtype='uint16', crs='EPSG:32633',
            transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000), compress='deflate', zlevel=1,
            bigtiff='IF_SAFER', **layout,
        ) as file:  # fmt: skip
            for top in range(0, side, BLOCK):
                part = row[:, : min(BLOCK, side - top)] + np.uint16(top % 1000)
                file.write(part, window=((top, top + part.shape[1]), (0, side)))


def encode(pieces: Sequence[Piece]) -> list[Encoded]:
    """A unit vector of each piece."""
    vectors = [np.asarray(piece.content)[::64, ::64].astype(np.float32).reshape(-1, 3).mean(0) + 1 for piece in pieces]
    return [Encoded(vector / np.linalg.norm(vector)) for vector in vectors]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the scene, index it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--side', type=int, default=4000, help='pixels (default 4000)')
    parser.add_argument('--strips', action='store_true', help='stored in strips, not in tiles')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder, 'archive/scene.tif')
        scene.parent.mkdir()
        make_scene(scene, args.side, args.strips)
        with growth() as grown:
            start = time.perf_counter()
            with closing(Scene(scene)) as opened:
                _ = opened.rendering
            stretched = time.perf_counter() - start
            with open_writer(Path(folder, 'index'), ModelId('0' * 64, 3, 'means'), dict(cut=str(CUT))) as writer:
                report = update_archive(writer, scene.parent, encode, CUT)
    layout, size = 'strips' if args.strips else 'tiles', f'{args.side} x {args.side}'
    print(f'{size} px, 3 bands of 16 bit in {layout}: {report.tiles} tiles in {report.seconds:.1f} s')
    print(f'{report.tiles / (report.seconds - stretched):.0f} windows/s, and {stretched:.1f} s for the stretch')
    print(f'memory grew by {grown[0]:.0f} MiB at most')


if __name__ == '__main__':
    main()
