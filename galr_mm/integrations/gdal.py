"""Rasters through rasterio (extra ``galr_mm[geo]``), opened so that GDAL reads this one file and no network.

A file may name others: a VRT that is called .tif, the overviews that its tags say are elsewhere, what lies beside it.
GDAL follows such names to any file and host, and PROJ fetches grids where the environment says so.
"""

from __future__ import annotations

import errno
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from galr_mm.integrations.installation import require_module
from galr_mm.messages import shorten

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

CACHE = 192 << 20  # bytes of decoded blocks: what one row of windows needs of a scene of 30,000 pixels in strips
MAX_BLOCK = 1 << 28  # bytes of one block with all its bands, which is decoded whole
BLOCK = 256  # side of the tiles of written files
ALONE = dict(
    GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR',  # no sidecar files, which are opened by any driver
    GDAL_PAM_ENABLED='NO',
    CPL_VSIL_CURL_ALLOWED_EXTENSIONS='.no',  # remote files have to end like this
)
HOW = 'VRT files, /vsi paths and addresses are opened with the option trusted (--trusted) only'


@contextmanager
def rasters(trusted: bool = False) -> Iterator[None]:
    """GDAL's settings for the length of the block, and PROJ without a network.

    Raises:
        ImportError: when rasterio is not installed; names the extra.
    """
    require_module('rasterio', 'geo')
    import rasterio

    before = os.environ.get('PROJ_NETWORK')
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS='1', **({} if trusted else ALONE)))
        if not trusted:
            os.environ['PROJ_NETWORK'] = 'OFF'
        try:
            yield
        finally:
            if before is None:
                os.environ.pop('PROJ_NETWORK', None)
            else:
                os.environ['PROJ_NETWORK'] = before


def open_raster(path: str | Path, trusted: bool = False) -> DatasetReader:
    """Open a GeoTIFF. The handle is for the thread and process that opened it.

    Args:
        path: of a local file.
        trusted: open whatever GDAL can: also VRT files with all that they name, /vsi paths and addresses.

    Raises:
        FileNotFoundError: when there is no such local file.
        OSError: when it is not a GeoTIFF.
        ValueError: when it names other files, or is stored in blocks that are too large to be decoded.
        ImportError: when rasterio is not installed; names the extra.
    """
    with rasters(trusted), ExitStack() as stack:
        import rasterio

        name = os.fspath(path)
        if not trusted:
            name = os.path.abspath(name)
            if name.startswith('/vsi') or not os.path.isfile(name):
                raise FileNotFoundError(f'no file at {path}; {HOW}')
        if not _is_unicode(name):  # GDAL takes names in UTF-8 only
            file = stack.enter_context(open(name, 'rb'))
            name = f'/dev/fd/{file.fileno()}'
        dataset = rasterio.open(name, driver=None if trusted else 'GTiff', sharing=False)
        try:
            if not trusted and (elsewhere := dataset.tags(ns='OVERVIEWS').get('OVERVIEW_FILE')):
                raise ValueError(f'{path} says that its overviews are in {shorten(elsewhere)}; {HOW}')
            height, width = dataset.block_shapes[0]
            size = height * width * sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
            if size > MAX_BLOCK:
                raise ValueError(
                    f'{path} is stored in blocks of {width} x {height} pixels, {size} bytes, of which at most '
                    f'{MAX_BLOCK} are decoded; store it in tiles: gdal_translate -co TILED=YES'
                )
        except BaseException:
            dataset.close()
            raise
        return dataset


def from_degrees(crs: str, longitude: Iterable[float], latitude: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes (WGS84) as coordinates: the other direction of :func:`to_degrees`.

    Raises:
        ValueError: when one of them is beyond what the coordinate reference system describes.
        ImportError: when rasterio is not installed; names the extra.
    """
    return _transformed(crs, 'EPSG:4326', crs, longitude, latitude)


def to_degrees(crs: str, x: Iterable[float], y: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates as longitudes and latitudes (WGS84); infinite where there is no answer.

    Raises:
        ValueError: when the coordinate reference system has no relation to WGS84.
        ImportError: when rasterio is not installed; names the extra.
    """
    return _transformed(crs, crs, 'EPSG:4326', x, y)


def _transformed(
    crs: str, source: str, target: str, x: Iterable[float], y: Iterable[float]
) -> tuple[np.ndarray, np.ndarray]:
    with rasters():
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError
        from rasterio.warp import transform

        try:
            first, second = transform(source, target, list(x), list(y))
        except (RasterioError, CPLE_BaseError) as error:
            raise ValueError(f'{shorten(crs)} has no relation to WGS84: {str(error)[:200]}') from error
    return np.array(first), np.array(second)


def write_raster(
    path: str | Path, rows: Iterator[np.ndarray], width: int, height: int, crs: str | None, transform: Sequence[float]
) -> None:
    """A GeoTIFF of one band of float32, tiled and compressed, in which NaN stands for no value.

    Args:
        path: the file.
        rows: parts (n, width) from top to bottom, n a multiple of :data:`BLOCK` but for the last.
        width: of the whole.
        height: of the whole.
        crs: as WKT or 'EPSG:...'.
        transform: a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f.

    Raises:
        OSError: when it could not be written whole, as on a full disk.
        ImportError: when rasterio is not installed; names the extra.
    """
    with rasters():
        import rasterio
        from rasterio.windows import Window

        written: list[tuple[Window, int]] = []
        options = dict(
            driver='GTiff', width=width, height=height, count=1, dtype='float32', nodata=np.nan, crs=crs,
            transform=rasterio.Affine(*transform), compress='deflate', tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
            bigtiff='IF_SAFER',
        )  # fmt: skip
        try:
            with rasterio.open(path, 'w', **options) as dataset:
                top = 0
                for part in rows:
                    window = Window(0, top, width, len(part))
                    dataset.write(part, 1, window=window)
                    written.append((window, zlib.crc32(np.ascontiguousarray(part, np.float32).data)))
                    top += len(part)
            # most of a file is written when it is closed, and rasterio says nothing of what fails there
            with rasterio.open(path, driver='GTiff', sharing=False) as dataset:
                if any(zlib.crc32(dataset.read(1, window=window)) != said for window, said in written):
                    raise rasterio.errors.RasterioIOError('what was written is not what is there')
        except rasterio.errors.RasterioIOError as error:
            message = f'GDAL could not write it, is the disk full? ({error})'
            raise OSError(errno.EIO, message, os.fspath(path)) from error


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
