"""Scenes with known answers for semantic localization: images of a data set side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from galr_mm.datasets.localization import LocalizationCase
from galr_mm.imagery import Window, open_image
from galr_mm.text import caption_key


def classes_of(records: Sequence[dict], pattern: str | None) -> tuple[list[dict], list[str]]:
    """Records whose file name tells a class, and those classes; without a pattern each image is a class of its own.

    Args:
        records: Karpathy records.
        pattern: regular expression whose first group is the class, such as ``([a-z]+)_`` for airport_1.jpg.

    Raises:
        ValueError: when the pattern is not one, has no group or fits no name.
    """
    if pattern is None:
        return list(records), [record['filename'] for record in records]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f'the class pattern {pattern!r} is not a regular expression: {error}') from error
    if not compiled.groups:
        raise ValueError(f'the class pattern {pattern!r} has no group, such as ([a-z]+)_')
    found = [(record, match[1]) for record in records if (match := compiled.match(Path(record['filename']).name))]
    if not found:
        raise ValueError(f'the class pattern {pattern!r} fits no file name, such as {records[0]["filename"]!r}')
    return [record for record, _ in found], [name for _, name in found]


def draw_mosaic(
    records: Sequence[dict], classes: Sequence[str], grid: int, sentences: int, rng: np.random.Generator
) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """Choose the images of a scene, row by row, and sentences with the tiles where they are true.

    A sentence is a caption of one of the tiles, no two of one class. It is true in all tiles of that class, and where
    an image has a caption of equal words.

    Returns:
        ``grid ** 2`` different indices of records, and up to ``sentences`` pairs of a caption and tile numbers.

    Raises:
        ValueError: when there are fewer records than tiles.
    """
    if len(records) < grid**2:
        raise ValueError(f'a grid of {grid} x {grid} needs {grid**2} images, there are {len(records)}')
    tiles = rng.choice(len(records), grid**2, replace=False).tolist()
    keys = [{caption_key(sentence['raw']) for sentence in records[tile]['sentences']} for tile in tiles]
    chosen: dict[str, tuple[str, list[int]]] = {}
    for place in rng.permutation(grid**2).tolist():
        kind = classes[tiles[place]]
        if len(chosen) == sentences or kind in chosen:
            continue
        captions = records[tiles[place]]['sentences']
        caption = captions[int(rng.integers(len(captions)))]['raw'].strip()
        key = caption_key(caption)
        chosen[kind] = caption, [i for i, tile in enumerate(tiles) if classes[tile] == kind or key in keys[i]]
    return tiles, list(chosen.values())


def make_mosaic(
    paths: Sequence[Path], queries: Sequence[tuple[str, Sequence[int]]], grid: int, tile: int, name: str
) -> tuple[np.ndarray, list[LocalizationCase]]:
    """The scene, BGR uint8 of ``grid * tile`` pixels a side, and its cases: a square for each tile of an answer.

    Raises:
        OSError: when an image cannot be read; names it.
    """
    scene = np.empty((grid * tile, grid * tile, 3), np.uint8)
    for place, path in enumerate(paths):
        with open_image(path) as opened:
            image = opened.read(Window(0, 0, opened.width, opened.height))
        left, top, right, bottom = _square(place, grid, tile)
        scene[top : bottom + 1, left : right + 1] = cv2.resize(image, (tile, tile), interpolation=cv2.INTER_CUBIC)
    cases = []
    for sentence, places in queries:
        squares = [_square(place, grid, tile) for place in places]
        regions = [np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64) for x1, y1, x2, y2 in squares]
        cases.append(LocalizationCase(name, sentence, regions))
    return scene, cases


def _square(place: int, grid: int, tile: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a tile, the last pixels: a polygon includes its outline."""
    row, column = divmod(place, grid)
    return column * tile, row * tile, (column + 1) * tile - 1, (row + 1) * tile - 1
