"""Hits as files: GeoJSON and GeoParquet for maps, CSV for tables, HTML to look at."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from galr_mm.archive.geoparquet import write_geoparquet
from galr_mm.archive.hits import Hit
from galr_mm.imagery import SceneReading, open_scene
from galr_mm.messages import printable
from galr_mm.utils.io import atomic_write, write_text

THUMBNAIL = 256  # pixels of the longer side
BOX = (47, 217, 255)  # BGR
FIELDS = ('path', 'score', 'rerank_score', 'tile_id', 'window', 'time', 'platform', 'gsd', 'valid')
FORMULAS = ('=', '+', '-', '@', '\t', '\r')  # a table program runs text that begins so
Results = Sequence[tuple[str, Sequence[Hit]]]  # each query in words, with its hits


def export_hits(results: Results, path: str | Path, trusted: bool = False) -> None:
    """Write hits to a file of the kind that its name says.

    Args:
        results: each query in words, with its hits.
        path: a name that ends in .geojson, .parquet, .csv or .html.
        trusted: show images of VRT files too, which are read with all that they name.

    Raises:
        ValueError: for another name.
        OSError: when it cannot be written.
    """
    kind = Path(path).suffix.lower()
    write = partial(write_html, trusted=trusted) if kind == '.html' else WRITERS.get(kind)
    if write is None:
        raise ValueError(f'{path}: expected a name that ends in {", ".join(WRITERS)}')
    write(results, path)


def geojson(results: Results) -> str:
    """RFC 7946; hits without a place have a null geometry, which maps leave out and tables show."""
    features = [
        dict(type='Feature', geometry=hit.footprint, properties=dict(query=query, rank=rank) | properties(hit))
        for query, rank, hit in _ranked(results)
    ]
    return json.dumps(dict(type='FeatureCollection', features=features))


def table(results: Results) -> str:
    """CSV, one line a hit; objects and other fields are json."""
    rows = [dict(query=query, rank=rank) | properties(hit) for query, rank, hit in _ranked(results)]
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, ['query', 'rank', *FIELDS, 'boxes', 'metadata', 'footprint'])
    writer.writeheader()
    for row, (_, _, hit) in zip(rows, _ranked(results), strict=True):
        row['footprint'] = hit.footprint
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def write_geojson(results: Results, path: str | Path) -> None:
    """A file of :func:`geojson`."""
    write_text(path, geojson(results))


def write_parquet(results: Results, path: str | Path) -> None:
    """GeoParquet; objects and other fields are json."""
    ranked = list(_ranked(results))
    rows = [dict(query=query, rank=rank) | properties(hit) for query, rank, hit in ranked]
    write_geoparquet(rows, [hit.footprint for _, _, hit in ranked], path)


def write_csv(results: Results, path: str | Path) -> None:
    """A file of :func:`table`."""
    with atomic_write(path) as part:
        part.write_text(table(results), encoding='utf-8', newline='')


def write_html(results: Results, path: str | Path, trusted: bool = False) -> None:
    """One page that holds its images, for a browser; an image that is not there any more is a gray square."""
    body = []
    for query, hits in results:
        body.append(f'<h2>{html.escape(printable(query))}</h2><div class=hits>')
        body += [_figure(rank, hit, trusted) for rank, hit in enumerate(hits, start=1)]
        body.append('</div>' if hits else '<p>Nothing was found.</p></div>')
    write_text(path, PAGE.replace('BODY', '\n'.join(body)))


WRITERS: dict[str, Callable[[Results, str | Path], None]] = {
    '.geojson': write_geojson,
    '.csv': write_csv,
    '.html': write_html,
    '.parquet': write_parquet,
}
PAGE = """<!DOCTYPE html>
<html lang=en><head><meta charset=utf-8><title>Hits</title>
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body { font: 14px sans-serif; margin: 2em }
.hits { display: flex; flex-wrap: wrap; gap: 12px }
figure { margin: 0; width: 256px; overflow-wrap: anywhere }
img, .none { display: block; max-width: 256px; background: #ddd }
.none { width: 256px; height: 256px }
</style></head><body>
BODY
</body></html>
"""


def properties(hit: Hit) -> dict[str, Any]:
    """A hit as values that json holds, but for its place."""
    values: dict[str, Any] = {name: getattr(hit, name) for name in FIELDS}
    values['path'] = printable(hit.path)
    values['window'] = list(hit.window)
    values['boxes'] = [dict(bbox=list(box[:4]), score=box.score, label=box.label) for box in hit.boxes]
    return values | dict(metadata=hit.metadata)


def thumbnail(hit: Hit, side: int = THUMBNAIL, boxes: bool = True, trusted: bool = False) -> bytes:
    """The part of the image that a hit is, with its boxes, as JPEG of at most ``side`` pixels a side.

    A VRT is opened where it is trusted.

    Raises:
        OSError: when the image cannot be read, or is not of the size any more that it had.
    """
    rendering = None if hit.scene is None else hit.scene.rendering
    with open_scene(hit.path, SceneReading(trusted=trusted), rendering) as image:
        if (image.height, image.width) != tuple(hit.image_size):
            raise OSError(f'{hit.path} has another size now')
        part = image.read(hit.window)
    scale = min(1.0, side / max(part.shape[:2]))
    size = [max(1, round(length * scale)) for length in part.shape[1::-1]]
    small = np.ascontiguousarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA))
    for box in hit.boxes if boxes else ():
        corners = (np.array(box[:4]) - np.tile(hit.window[:2], 2)) * scale
        left, top, right, bottom = corners.round().astype(int).tolist()
        cv2.rectangle(small, (left, top), (right, bottom), BOX)
    done, data = cv2.imencode('.jpg', small)
    assert done  # uint8 of three channels always is
    return data.tobytes()


def _figure(rank: int, hit: Hit, trusted: bool) -> str:
    try:
        shown = base64.b64encode(thumbnail(hit, trusted=trusted)).decode()
        image = f'<img alt="" src="data:image/jpeg;base64,{shown}">'
    except Exception as error:  # decoders raise many kinds on a file that has changed
        image = f'<div class=none>{html.escape(printable(str(error)))[:300]}</div>'
    lines = [printable(hit.path), '' if hit.is_whole else f'window {tuple(hit.window)}']
    lines += [hit.time or '', hit.platform or '', *(f'{name}: {value}' for name, value in hit.metadata.items())]
    text = '<br>'.join(html.escape(printable(line)) for line in lines if line)
    score = '' if hit.score is None else f' {hit.score:.3f}'
    return f'<figure>{image}<figcaption><b>{rank}.{score}</b> {text}</figcaption></figure>'


def _ranked(results: Results) -> Iterable[tuple[str, int, Hit]]:
    return ((printable(query), rank, hit) for query, hits in results for rank, hit in enumerate(hits, start=1))


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return value
