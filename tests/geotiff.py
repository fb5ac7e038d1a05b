"""Small GeoTIFFs, written by rasterio."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

NORTH = dict(crs='EPSG:32633', transform=(10, 0, 500_000, 0, -10, 5_000_000))


def write(path: Path, values: np.ndarray, crs=None, transform=None, colors=None, domains=None, **options) -> Path:
    """Values (bands, height, width)."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    options = dict(compress='deflate', tiled=True, blockxsize=32, blockysize=32) | options
    if transform is not None:
        options['transform'] = rasterio.Affine(*transform)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, 'w', driver='GTiff', width=width, height=height, count=bands, dtype=values.dtype, crs=crs, **options
        ) as file:
            file.write(values)
            if colors is not None:
                file.colorinterp = [rasterio.enums.ColorInterp[name] for name in colors]
            for domain, tags in (domains or {}).items():
                file.update_tags(ns=domain, **tags)
    return path


def noise(bands: int, height: int, width: int, dtype='uint16', seed: int = 0, high: int = 3000) -> np.ndarray:
    """Values above 0."""
    return np.random.default_rng(seed).integers(1, high, (bands, height, width)).astype(dtype)
