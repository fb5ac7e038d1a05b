"""Features of images and captions on disk, so that what is frozen is computed once.

A folder holds ``meta.json``, ``features.npy`` (rows, C, H, W), ``done.npy`` (images,) and, where the text encoder is
frozen too, ``captions.npz``. Training images come first, with a row for each view; the others have one row, the image
as it is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galr_mm.messages import first_of, reason, shorten
from galr_mm.utils.io import UNREADABLE_NPZ, read_json, write_npz, write_text

KEYS = (
    'names', 'images', 'num_training', 'views', 'dtype', 'stage', 'image_steps', 'data_preprocessor', 'precision',
    'weights', 'captions', 'image_shape', 'shape',
)  # fmt: skip
DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}


class FeatureCache:
    """What a frozen part of a backbone gives for views of images.

    Args:
        folder: as ``tools/cache_features.py`` wrote it.

    Attributes:
        meta: ``names`` (the images, the first ``num_training`` of them with all ``views``), ``images`` (see
            :func:`image_fingerprint`), ``shape`` (C, H, W), ``dtype``, ``image_shape`` (height, width before a view),
            and what the features were made with.

    Raises:
        FileNotFoundError: when there is no cache.
        ValueError: when it is not complete, or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        if not self.meta.get('complete'):
            raise ValueError(
                f'{self.folder} is not complete: the run of tools/cache_features.py that fills it was interrupted; '
                'start it again with the same arguments and it goes on'
            )
        self._index = {name: index for index, name in enumerate(self.meta['names'])}
        self._known: set[tuple[str, str]] = set()
        path, rows = self.folder / 'features.npy', row_of(len(self._index), 0, self.meta)
        try:
            found = np.lib.format.open_memmap(path, mode='r')
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f'{path} cannot be read ({reason(error)}); delete {folder}, and fill it again') from error
        expected = (rows, *self.meta['shape']), np.dtype(storage_type(self.meta['dtype']))
        if (found.shape, found.dtype) != expected:
            raise ValueError(
                f'{path} is {found.shape} of {found.dtype}, expected {expected[0]} of {expected[1]}; delete {folder}, '
                'and fill it again'
            )

    @cached_property
    def _features(self) -> np.ndarray:
        return np.load(self.folder / 'features.npy', mmap_mode='r')

    def check(self, name: str, path: str | Path) -> None:
        """Look, once, whether the image of a name is the one that the cache was filled from.

        Raises:
            KeyError: for an image that is not in the cache.
            ValueError: when it is another one.
        """
        if (name, str(path)) in self._known:
            return
        expected, found = self.meta['images'][self._index_of(name)], image_fingerprint(path)
        if None not in (expected, found) and expected != found:
            raise ValueError(
                f'{path} is another image than the {name} that {self.folder} was filled from ({found}, there '
                f'{expected}); fill another folder'
            )
        self._known.add((name, str(path)))

    def require(self, names: Sequence[str], views: Sequence[str]) -> None:
        """Look whether views of images are there.

        Raises:
            ValueError: when some are not; says how many, and the first.
        """
        end = len(self._index) if set(views) <= set(self.meta['views'][:1]) else self.meta['num_training']
        lacking = [name for name in names if self._index.get(name, end) >= end]
        if lacking:
            raise ValueError(
                f'{self.folder} does not hold {len(lacking)} of {len(names)} images in the views {list(views)} '
                f'({first_of(lacking)}): it was filled from another data set; fill another folder'
            )

    def _index_of(self, name: str) -> int:
        if name not in self._index:
            raise KeyError(f'{self.folder} does not hold {name!r}; it was filled from another data set')
        return self._index[name]

    def get(self, name: str, view: str = 'identity') -> Tensor:
        """Features (C, H, W) of a view of an image, in the type they are stored in.

        Raises:
            KeyError: for an image or a view that is not in the cache.
            ValueError: when they are not finite, or all zeros, as an interrupted copy leaves them.
        """
        index = self._index_of(name)
        views = self.meta['views'] if index < self.meta['num_training'] else self.meta['views'][:1]
        if view not in views:
            raise KeyError(f'{self.folder} does not hold the view {view!r} of {name!r}, only {views}')
        features = as_tensor(self._features[row_of(index, views.index(view), self.meta)], self.meta['dtype'])
        if not torch.isfinite(features).all() or not features.any():
            raise ValueError(
                f'{self.folder}/features.npy is damaged: {name} ({view}) is all zeros, or not finite; delete '
                f'{self.folder}, and fill it again'
            )
        return features

    def captions(self) -> dict[tuple[int, ...], Tensor] | None:
        """Vectors of captions by their token ids; None where the cache has none.

        Raises:
            ValueError: when their file is damaged.
        """
        if self.meta['captions'] is None:
            return None
        path = self.folder / 'captions.npz'
        try:
            with np.load(path) as file:
                ids, lengths, vectors = file['ids'], file['lengths'], torch.from_numpy(file['vectors'])
            keys = [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
            return dict(zip(keys, vectors, strict=True))
        except (KeyError, *UNREADABLE_NPZ) as error:
            raise ValueError(
                f'{path} cannot be read ({reason(error)}); delete {self.folder}, and fill it again'
            ) from error


def image_fingerprint(path: str | Path) -> str | None:
    """Size and checksum of an image file; None where it is not on this disk.

    Names do not tell images apart: those of several data sets are numbers, and a set may be re-encoded.
    """
    path = Path(path)
    if not path.is_file():
        return None
    content = path.read_bytes()
    return f'{len(content)} bytes, {zlib.crc32(content):08x}'


def row_of(image: int, view: int, meta: Mapping[str, Any]) -> int:
    """Row of a view of the image with this index; images that are not trained on have the first view only."""
    views, training = len(meta['views']), meta['num_training']
    return image * views + view if image < training else training * views + image - training


def read_meta(folder: Path) -> dict[str, Any]:
    """``meta.json`` of a cache.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is not what this package writes.
    """
    path = folder / 'meta.json'
    if not path.is_file():
        raise FileNotFoundError(f'no feature cache at {folder} (no meta.json); tools/cache_features.py makes one')
    meta = read_json(path)
    if not isinstance(meta, dict) or not meta.keys() >= set(KEYS):
        raise ValueError(
            f'{path} is not the meta.json of a feature cache of this version, which has {", ".join(KEYS)}; delete '
            f'{folder}, and fill it again'
        )
    kinds = dict(names=list, images=list, views=list, shape=list, image_shape=list, num_training=int)
    if wrong := [key for key, kind in kinds.items() if type(meta[key]) is not kind]:
        raise ValueError(
            f'{path} is damaged: {wrong[0]} is {shorten(meta[wrong[0]])}, expected a {kinds[wrong[0]].__name__}; '
            f'delete {folder}, and fill it again'
        )
    if meta['dtype'] not in DTYPES or len(meta['names']) != len(meta['images']):
        raise ValueError(
            f'{path} has {len(meta["names"])} names, {len(meta["images"])} images and the dtype {meta["dtype"]!r}, '
            f'expected as many, and one of {", ".join(DTYPES)}; delete {folder}, and fill it again'
        )
    return meta


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write ``meta.json`` atomically."""
    write_text(folder / 'meta.json', json.dumps(meta, indent=1))


def as_tensor(features: np.ndarray, dtype: str) -> Tensor:
    """Stored features as a tensor; numpy has no bfloat16, so its bits are kept as int16."""
    tensor = torch.from_numpy(np.array(features))
    return tensor.view(torch.bfloat16) if dtype == 'bfloat16' else tensor


def as_array(features: Tensor, dtype: str) -> np.ndarray:
    """Features in the type they are stored in.

    Raises:
        ValueError: when a value is too large for it, or not finite.
    """
    stored = features.to(DTYPES[dtype])
    if not torch.isfinite(stored).all():
        raise ValueError(f'features reach {features.abs().max().item():.3g}, which {dtype} does not hold')
    return (stored.view(torch.int16) if dtype == 'bfloat16' else stored).cpu().numpy()


def storage_type(dtype: str) -> type:
    """The numpy type of the file."""
    return {'float16': np.float16, 'bfloat16': np.int16, 'float32': np.float32}[dtype]


def write_captions(path: Path, keys: Sequence[tuple[int, ...]], vectors: Tensor) -> None:
    """Write vectors (T, D) of captions by their token ids."""
    ids = np.zeros((len(keys), max(map(len, keys))), dtype=np.int32)
    for row, key in enumerate(keys):
        ids[row, : len(key)] = key
    write_npz(path, ids=ids, lengths=np.array([len(key) for key in keys]), vectors=vectors.cpu().numpy())
