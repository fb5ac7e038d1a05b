"""Scenes: rasters with a place on Earth or of more than 8 bit, read window by window (extra ``galr_mm[geo]``).

Values of more than 8 bit get one linear stretch a scene and band, from 2 to 98 % of what the scene holds, or between
two numbers that are given. Pixels without data are black.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from galr_mm.imagery.header import read_file_header
from galr_mm.imagery.pixels import naming_image
from galr_mm.imagery.stretch import SCENE_CUT, Stretch, fit_stretch, sample_step
from galr_mm.imagery.tiles import OpenedImage, Window, open_image
from galr_mm.integrations.gdal import open_raster, rasters
from galr_mm.messages import shorten
from galr_mm.structures import Place

MAX_SCENE = 1 << 36  # pixels, 262,144 x 262,144: a file of some bytes may say that it has more
VRT = b'<VRTDataset'


@dataclass(frozen=True)
class SceneReading:
    """How scenes become pixels.

    Args:
        bands: red, green and blue, or one for gray, counted from 1; None takes what the file calls so, else the first
            three, else the first.
        scale: values that become black and white, in place of 2 and 98 % of each scene and band; 8 bit stay.
        trusted: also read VRT files with all that they name.

    Raises:
        ValueError: names the setting and its value.
    """

    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        bands, scale = self.bands, self.scale
        if bands is not None and not (_are(bands, Integral) and len(bands) in (1, 3) and min(bands) >= 1):
            raise ValueError(f'bands are {_listed(bands)}, expected one or three whole numbers, counted from 1')
        if scale is not None and not (
            _are(scale, Real) and len(scale) == 2 and np.isfinite(scale).all() and scale[0] < scale[1]
        ):
            raise ValueError(f'scale is {_listed(scale)}, expected two numbers, the lower one first')

    def __str__(self) -> str:
        parts = [] if self.bands is None else [f'bands {",".join(map(str, self.bands))}']
        parts += [] if self.scale is None else [f'scale {",".join(map(_shortest, self.scale))}']
        return ', '.join(parts)

    @classmethod
    def of(cls, text: str, trusted: bool = False) -> SceneReading:
        """What a text says that ``str`` made, which may say other things too; whom to trust is not in it.

        Raises:
            ValueError: when the text is damaged; names it.

        >>> SceneReading.of('64 pixels, overlap 16, bands 4,3,2, scale 0,0.25')
        SceneReading(bands=(4, 3, 2), scale=(0.0, 0.25), trusted=False)
        """
        said = dict(part.split(' ', 1) for part in text.split(', ') if part.startswith(('bands ', 'scale ')))
        try:
            bands = tuple(map(int, said['bands'].split(','))) if 'bands' in said else None
            scale = tuple(map(float, said['scale'].split(','))) if 'scale' in said else None
        except ValueError as error:
            raise ValueError(f'how scenes are read is written as {shorten(text)}: {error}') from error
        return cls(bands, cast('tuple[float, float] | None', scale), trusted)


def _are(values: object, kind: type) -> bool:
    return isinstance(values, (tuple, list)) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )


def _listed(values: object) -> str:
    return shorten(list(values) if isinstance(values, (tuple, list)) else values)


def _shortest(value: float) -> str:
    """A number in as few digits as tell it from all others."""
    return text if float(text := f'{value:g}') == value else repr(float(value))


class Rendering(NamedTuple):
    """What makes pixels of a scene's values: bands, and the numbers of each that become black and white, if any."""

    bands: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] | None


class Scene:
    """A raster that is read window by window. It is for the thread and process that opened it.

    Args:
        path: of the file.
        reading: how it becomes pixels.
        rendering: what was found for it before; not looked for again.

    Raises:
        OSError: when it is not there, damaged, or not a raster that is read; names it.
        ImportError: when rasterio is not installed; names the extra.
    """

    def __init__(
        self, path: str | Path, reading: SceneReading = SceneReading(), rendering: Rendering | None = None
    ) -> None:  # fmt: skip
        self.path, self.reading = path, reading
        with naming_image(path):
            self.dataset = open_raster(path, reading.trusted)
            self.height, self.width = self.dataset.height, self.dataset.width
            if self.height * self.width > MAX_SCENE:
                raise ValueError(f'{self.width} x {self.height} pixels, more than {MAX_SCENE}')
            self.bands = self._bands() if rendering is None else rendering.bands
            self.kind = np.result_type(*(self.dataset.dtypes[band - 1] for band in self.bands))
            if self.kind.kind not in 'uif':
                raise ValueError(f'values of {self.kind} have no rule; accepted: integers and floats')
            self.place = self._place()
        self._rendering = rendering

    def close(self) -> None:
        """Let go of the file."""
        self.dataset.close()

    @cached_property
    def rendering(self) -> Rendering:
        """Bands and stretch; of a deep scene without a scale its overview, or every so many pixels of it, is read."""
        if self._rendering is not None:
            return self._rendering
        return Rendering(self.bands, self._fit() if self.kind != np.uint8 else None)

    def read(self, window: Window) -> np.ndarray:
        """BGR uint8 (h, w, 3).

        Raises:
            OSError: when the file is damaged there; names it.
        """
        return self.read_valid(window)[0]

    def read_valid(self, window: Window) -> tuple[np.ndarray, float]:
        """BGR uint8 (h, w, 3), and the fraction of the pixels that hold data."""
        values, valid = self._values(window)
        pixels = np.where(valid, self._pixels(values), 0)
        return np.ascontiguousarray(pixels[..., ::-1]), float(valid.any(axis=2).mean())

    def _pixels(self, values: np.ndarray) -> np.ndarray:
        """Values (h, w, bands) -> RGB uint8 (h, w, 3)."""
        if self.rendering.stretch is not None:
            bands = [np.ascontiguousarray(values[..., index]) for index in range(values.shape[2])]
            pixels = np.stack([apply(band) for apply, band in zip(self._stretches, bands, strict=True)], axis=2)
        elif self._colors is not None:
            return self._colors[values[..., 0]]
        else:
            pixels = values
        if self.dataset.tags(ns='IMAGE_STRUCTURE').get('MINISWHITE') == 'YES':
            pixels = 255 - pixels
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    @cached_property
    def _stretches(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """The stretch of each band; of 16 bit by a table of all values, which is faster."""
        stretches = [Stretch(*numbers) for numbers in self.rendering.stretch or ()]
        short = self.kind in (np.uint16, np.int16)
        return [self._table(stretch) if short else stretch.__call__ for stretch in stretches]

    def _table(self, stretch: Stretch) -> Callable[[np.ndarray], np.ndarray]:
        table = stretch(np.arange(1 << 16, dtype=np.uint16).view(self.kind))

        def look_up(band: np.ndarray) -> np.ndarray:
            return table[band.astype(self.kind, copy=False).view(np.uint16)]

        return look_up

    def _values(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> tuple[np.ndarray, ...]:
        """Values (h, w, bands) and which of them are data, of a window or, coarser, of the whole scene."""
        options = dict(
            indexes=list(self.bands),
            window=None if window is None else ((window.top, window.bottom), (window.left, window.right)),
            out_shape=None if shape is None else (len(self.bands), *shape),
        )
        with naming_image(self.path), rasters(self.reading.trusted):
            values = self.dataset.read(**options)
            whole = all(self.dataset.mask_flag_enums[band - 1] == [_all_valid()] for band in self.bands)
            valid = np.ones(values.shape, bool) if whole else self.dataset.read_masks(**options) > 0
        if self.kind.kind == 'f':
            valid &= np.isfinite(values)
        return np.moveaxis(values, 0, 2), np.moveaxis(valid, 0, 2)

    def _fit(self) -> tuple[tuple[float, float], ...]:
        if self.reading.scale is not None:
            return (self.reading.scale,) * len(self.bands)
        step = sample_step(self.height, self.width)
        values, valid = self._values(shape=(-(-self.height // step), -(-self.width // step)))
        fitted = [fit_stretch(values[..., i][valid[..., i]], cut=SCENE_CUT) for i in range(len(self.bands))]
        return tuple((stretch.low, stretch.high) for stretch in fitted)

    @cached_property
    def _colors(self) -> np.ndarray | None:
        """The palette as RGB (256, 3), if there is one."""
        if self.dataset.colorinterp[self.bands[0] - 1].name != 'palette' or len(self.bands) > 1:
            return None
        colors = np.zeros((256, 3), np.uint8)
        for value, color in self.dataset.colormap(self.bands[0]).items():
            colors[value] = color[:3]
        return colors

    def _bands(self) -> tuple[int, ...]:
        count, wanted = self.dataset.count, self.reading.bands
        if wanted is not None:
            if max(wanted) > count:
                raise ValueError(f'has {count} bands, asked for {",".join(map(str, wanted))}')
            return wanted
        names = [color.name for color in self.dataset.colorinterp]
        if 'cyan' in names:
            raise ValueError('CMYK colors have no rule in a scene; store it as RGB')
        if {'red', 'green', 'blue'} <= set(names):
            return tuple(names.index(name) + 1 for name in ('red', 'green', 'blue'))
        return (1, 2, 3) if count >= 3 and 'alpha' not in names[:3] else (1,)

    def _place(self) -> Place:
        crs, transform = self.dataset.crs, tuple(self.dataset.transform)[:6]
        if not np.isfinite(transform).all():  # damaged: it says nothing
            return Place()
        return Place((crs.to_string() or None) if crs and not self.dataset.transform.is_identity else None, transform)


def _all_valid() -> object:
    from rasterio.enums import MaskFlags

    return MaskFlags.all_valid


@contextmanager
def open_scene(
    path: str | Path, reading: SceneReading = SceneReading(), rendering: Rendering | None = None
) -> Iterator[OpenedImage]:  # fmt: skip
    """A scene, or, where the file is none, an image as :func:`galr_mm.imagery.open_image` gives it.

    Raises:
        OSError, ValueError: when it cannot be read.
        ImportError: when it needs a package that is not installed.
    """
    if not is_scene(path, reading):
        with open_image(path) as image:
            yield image
        return
    with closing(Scene(path, reading, rendering)) as scene:
        yield scene


def is_scene(path: str | Path, reading: SceneReading = SceneReading()) -> bool:
    """Whether a file is read as a scene: a TIFF with a place, a value for no data, or more than plain 8-bit colors.

    All others are images, as those of data sets are.

    Raises:
        OSError: when it cannot be read.
        ValueError: for a VRT, unless it is trusted; names it.
    """
    with open(path, 'rb') as file:
        is_vrt = VRT in file.read(1024)
    if is_vrt and not reading.trusted:
        raise ValueError(
            f'{path} is a VRT, which names other files; it is read with the option trusted (--trusted) only'
        )
    header = None if is_vrt else read_file_header(path)
    tags = None if header is None else header.tags
    return is_vrt or (tags is not None and (tags.is_geographic or not tags.is_plain))
