"""Hits as GeoParquet 1.1 (extra ``galr_mm[geo]``), for QGIS, GeoPandas, DuckDB and others."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from galr_mm.integrations.installation import require_module
from galr_mm.utils.io import atomic_write

GEOMETRY = 'geometry'


def write_geoparquet(
    rows: Sequence[Mapping[str, Any]], geometries: Sequence[dict[str, Any] | None], path: str | Path
) -> None:
    """One row a hit; its polygon in WKB, degrees (OGC:CRS84).

    Args:
        rows: values by column.
        geometries: a GeoJSON Polygon or MultiPolygon of each, None where the place is not known.
        path: the file.

    Raises:
        ImportError: when pyarrow is not installed; names the extra.
    """
    require_module('pyarrow', 'geo')
    import pyarrow as pa
    from pyarrow import parquet

    types = dict(
        rank=pa.int32(), score=pa.float64(), rerank_score=pa.float64(), window=pa.list_(pa.int32()), gsd=pa.float64(),
        valid=pa.float64(), time=pa.timestamp('ms', tz='UTC'),
    )  # fmt: skip
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [_value(row.get(name), name) for row in rows] for name in names}
    columns[GEOMETRY] = [None if geometry is None else to_wkb(geometry) for geometry in geometries]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names] + [(GEOMETRY, pa.binary())])
    found = [geometry for geometry in geometries if geometry is not None]
    about: dict[str, Any] = dict(
        encoding='WKB', geometry_types=sorted({geometry['type'] for geometry in found}), orientation='counterclockwise'
    )
    if found:
        points = np.array([point for geometry in found for (ring,) in _polygons(geometry) for point in ring])
        about['bbox'] = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    geo = dict(version='1.1.0', primary_column=GEOMETRY, columns={GEOMETRY: about})
    table = pa.table(columns, schema=schema.with_metadata({'geo': json.dumps(geo)}))
    with atomic_write(path) as part:
        parquet.write_table(table, part)


def to_wkb(geometry: Mapping[str, Any]) -> bytes:
    """A GeoJSON Polygon or MultiPolygon as well-known binary.

    >>> to_wkb(dict(type='Polygon', coordinates=[[[0, 0], [1, 0], [0, 1], [0, 0]]]))[:9].hex()
    '010300000001000000'
    """
    polygons = [
        struct.pack('<BII', 1, 3, len(rings))
        + b''.join(struct.pack('<I', len(ring)) + np.array(ring, '<f8').tobytes() for ring in rings)
        for rings in _polygons(geometry)
    ]
    if geometry['type'] == 'Polygon':
        return polygons[0]
    return struct.pack('<BII', 1, 6, len(polygons)) + b''.join(polygons)


def _polygons(geometry: Mapping[str, Any]) -> list[Any]:
    return geometry['coordinates'] if geometry['type'] == 'MultiPolygon' else [geometry['coordinates']]


def _value(value: Any, name: str) -> Any:
    if name == 'time' and value is not None:
        return datetime.fromisoformat(value.replace('Z', '+00:00'))
    return json.dumps(value) if isinstance(value, dict) or (isinstance(value, list) and name != 'window') else value
