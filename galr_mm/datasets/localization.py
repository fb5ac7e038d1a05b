"""Annotations of semantic localization, in the format of AIR-SLT: a list of sentences with a scene and regions each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galr_mm.utils.io import read_json, write_text


class LocalizationCase(NamedTuple):
    """A sentence, the scene it is looked for in, and where it is true: polygons (n, 2) of points x, y in pixels."""

    scene: str
    sentence: str
    regions: list[np.ndarray]


def read_air_slt(path: str | Path) -> list[LocalizationCase]:
    """Read ``[{"jpg_name": "0.jpg", "caption": "...", "points": [[[x, y], ...], ...]}, ...]``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not such a list or is empty, or an entry lacks a field or holds a value of another kind;
            names the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no annotations at {path}')
    entries = read_json(path, 'a json of localization')
    if not isinstance(entries, list) or not entries:
        found = 'an empty list' if entries == [] else f'a {type(entries).__name__}'
        raise ValueError(f'{path} holds {found}, expected a list of entries with jpg_name, caption and points')
    return [_case(entry, f'{path}: entry {index}') for index, entry in enumerate(entries)]


def write_air_slt(path: str | Path, cases: Iterable[LocalizationCase]) -> None:
    """Write what :func:`read_air_slt` reads, atomically."""
    entries = [
        dict(jpg_name=case.scene, caption=case.sentence, points=[np.asarray(r).tolist() for r in case.regions])
        for case in cases
    ]
    write_text(path, json.dumps(entries, ensure_ascii=False))


def _case(entry: object, where: str) -> LocalizationCase:
    if not isinstance(entry, dict):
        raise ValueError(f'{where} is a {type(entry).__name__}, expected a dict')
    for key in ('jpg_name', 'caption'):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f'{where} has {key} = {str(entry.get(key))[:100]!r}, expected a text')
    points = entry.get('points')
    if not isinstance(points, list) or not points:
        raise ValueError(f'{where} has points = {str(points)[:100]}, expected a list of polygons')
    return LocalizationCase(entry['jpg_name'].strip(), entry['caption'].strip(), [_polygon(p, where) for p in points])


def _polygon(points: object, where: str) -> np.ndarray:
    try:
        polygon = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        polygon = np.empty(0)
    if polygon.ndim != 2 or polygon.shape[1] != 2 or not len(polygon) or not np.isfinite(polygon).all():
        raise ValueError(f'{where} has the polygon {str(points)[:100]}, expected finite points [[x, y], ...]')
    return polygon
