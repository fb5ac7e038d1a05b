"""An index of an archive of images: catalogue, vectors, search, changes, export. No model is in it.

``galr_mm.apis`` has the classes that put a model to it, ``docs/archive.md`` says how it is used and what it promises.
"""

from galr_mm.archive.catalog import Catalog
from galr_mm.archive.changes import Encoded, Report, update_archive
from galr_mm.archive.checks import CheckReport, check_index
from galr_mm.archive.cutting import Cut, Piece
from galr_mm.archive.engine import EngineReport, MilvusEngine, check_engine, fill_engine
from galr_mm.archive.export import export_hits
from galr_mm.archive.filters import Where
from galr_mm.archive.hits import Hit
from galr_mm.archive.metadata import read_metadata
from galr_mm.archive.records import Box, Description, Entry, FileState, Tile
from galr_mm.archive.search import Engine, Found, nearest
from galr_mm.archive.store import ArchiveIndex, ArchiveWriter, ModelId, open_writer, scene_embeddings

__all__ = [
    'ArchiveIndex',
    'ArchiveWriter',
    'Box',
    'Catalog',
    'CheckReport',
    'Cut',
    'Description',
    'Encoded',
    'Engine',
    'EngineReport',
    'Entry',
    'FileState',
    'Found',
    'Hit',
    'MilvusEngine',
    'ModelId',
    'Piece',
    'Report',
    'Tile',
    'Where',
    'check_engine',
    'check_index',
    'export_hits',
    'fill_engine',
    'nearest',
    'open_writer',
    'read_metadata',
    'scene_embeddings',
    'update_archive',
]
