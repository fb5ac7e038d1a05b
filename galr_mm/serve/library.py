"""An index as a page shows it: hits, heat maps and images by the names of tiles, without a path of the server."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from galr_mm.apis import ArchiveSearcher, SceneLocalizer, encode_images, encode_texts
from galr_mm.apis.localize import localize
from galr_mm.archive import ArchiveIndex, FileState, Hit
from galr_mm.archive.bank import METHODS, CandidateReranker
from galr_mm.archive.catalog import TileRecord
from galr_mm.archive.export import geojson, properties, table, thumbnail
from galr_mm.archive.lookup import facets, find_tile, rows_of_image
from galr_mm.imagery import Window, open_scene
from galr_mm.imagery.scene import Rendering
from galr_mm.messages import escaped, shorten
from galr_mm.serve.requests import PIXELS, SENTENCE, TOPK, UPLOAD, Query, Refused, image_of
from galr_mm.structures import SceneEmbeddings

EXPORTS = dict(geojson=geojson, csv=table)
SIDES = dict(small=384, large=1600, whole=1600)  # pixels of the longer side of an image that is sent
SCENES = 16  # whose windows are kept for the next sentence
SMALLEST = 16  # pixels of a side of a window
WHOLE = 2 * PIXELS  # of an image that is read whole, where a part of it would not do

logger = logging.getLogger(__name__)


class Library:
    """An index and the model that filled it, for one thread. What a writer commits is seen by the next call.

    Args:
        model, index, pretrained, device: see :class:`galr_mm.apis.ArchiveSearcher`.
    """

    def __init__(
        self,
        model: BaseModel | str | Path | Config | None,
        index: str | Path,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
    ) -> None:
        self.searcher = ArchiveSearcher(model, index, pretrained, device)
        self.index = self.searcher.index
        self.model = self.searcher.model.model
        self._scene = lru_cache(SCENES)(self._encode_scene)

    def info(self) -> dict[str, Any]:
        """What there is to search, to filter by and to ask for."""
        with self.index.snapshot():
            counts, found = self.index.catalog.counts(), facets(self.index.catalog)
        return dict(
            model=self.index.meta['model'],
            images=counts['ok'],
            tiles=counts['tiles'],
            placed=counts['placed'],
            rerank={kind: self._methods(kind) for kind in ('sentence', 'image')},
            limits=dict(topk=TOPK, sentence=SENTENCE, upload=UPLOAD, pixels=PIXELS),
            **found._asdict(),
        )

    def search(self, query: Query) -> dict[str, Any]:
        """Hits, and how long they took; of none, how many tiles pass the filter."""
        start = perf_counter()
        hits = self._hits(query)
        answer = dict(hits=[described(hit) for hit in hits], milliseconds=round(1000 * (perf_counter() - start)))
        if not hits:
            with self.index.snapshot():
                answer['passing'] = len(self.index.catalog.rows_where(query.filter()))
        return answer

    def export(self, query: Query, kind: str) -> str:
        """Hits as the text of a file of a kind of :data:`EXPORTS`."""
        return EXPORTS[kind]([(query.sentence or 'an image', self._hits(query))])

    def heat(self, tile_id: str, sentence: str) -> dict[str, Any]:
        """The map of a sentence over the image of a tile, as cells between the edges of windows.

        An image of several tiles is compared by their vectors, another one is cut into windows, which are encoded.
        """
        text = self._text(sentence)
        with self.index.snapshot() as snapshot:
            tile = require_tile(self.index, tile_id)
            rows = rows_of_image(self.index.catalog, tile.row)
            if len(rows) > 1:
                tiles = self.index.catalog.tiles(rows)
                vectors = torch.from_numpy(snapshot.vectors(rows))
                scene = SceneEmbeddings(*tile.image_size, [tiles[row].window for row in rows.tolist()], vectors)
            else:
                hit = hit_of(self.index, tile)
        if len(rows) == 1:
            scene = self._scene(hit.path, state_of(hit.path), tile.image_size, rendering_of(hit))
        found = localize(scene, torch.from_numpy(text), [sentence])[0]
        cells = [[None if math.isnan(value) else value for value in row] for row in found.cells.tolist()]
        return dict(size=tile.image_size, windows=len(scene.windows), cells=cells, y_edges=found.y_edges.tolist(),
                    x_edges=found.x_edges.tolist())  # fmt: skip

    def _encode_scene(
        self, path: str, state: FileState, size: tuple[int, int], rendering: Rendering | None
    ) -> SceneEmbeddings:
        """Windows of about a half and a quarter of an image, which is read whole."""
        require_small(size)
        try:
            with open_scene(path, rendering=rendering) as image:
                pixels = image.read(Window(0, 0, image.width, image.height))
        except Exception as error:  # decoders raise many kinds on a file that has changed
            raise unreadable(error) from error
        side = math.sqrt(pixels.shape[0] * pixels.shape[1])
        scales = sorted({max(SMALLEST, round(side / part)) for part in (2, 4)})
        return SceneLocalizer(self.model, scales).encode(pixels)

    def _methods(self, kind: str) -> list[str]:
        """Methods of re-ranking that the bank serves."""
        try:
            bank = self.searcher.bank
        except FileNotFoundError:
            return []
        except ValueError as error:  # of another model
            logger.warning('%s', error)
            return []
        return [*METHODS] if len(bank.text if kind == 'sentence' else bank.image) else []

    def _text(self, sentence: str) -> np.ndarray:
        try:
            return encode_texts(self.model, [sentence], progress=False).float().cpu().numpy()
        except ValueError as error:
            raise Refused(422, f'there is no word in {shorten(sentence)}') from error

    def _hits(self, query: Query) -> list[Hit]:
        kind = 'sentence' if query.image is None else 'image'
        if query.rerank is not None and not self._methods(kind):
            raise Refused(422, f'the index has no bank of {kind}s to re-rank by')
        reranker = None if query.rerank is None else CandidateReranker(query.rerank)
        if query.image is None:
            vectors = self._text(query.sentence or '')
        else:
            vectors = encode_images(self.model, [image_of(query.image)], progress=False).float().cpu().numpy()
        (hits,) = self.searcher.search(vectors, [kind == 'image'], query.topk, query.filter(), reranker)
        archive = self.index.archive
        return [replace(hit, path=relative(hit.path, archive)) for hit in hits]


class Images:
    """The images of an index, for one thread: by the name of a tile, small and encoded anew."""

    def __init__(self, index: str | Path) -> None:
        self.index = ArchiveIndex(index)

    def tag(self, tile_id: str, size: str) -> str:
        """Equal for the same pixels, while the file is the same."""
        with self.index.snapshot():
            path = hit_of(self.index, require_tile(self.index, tile_id)).path
        return f'"{"-".join(f"{value:x}" for value in state_of(path))}-{size}"'

    def jpeg(self, tile_id: str, size: str) -> bytes:
        """A tile, or the whole image that it is of, as a JPEG of a size of :data:`SIDES`."""
        with self.index.snapshot():
            hit = hit_of(self.index, require_tile(self.index, tile_id))
        if size == 'whole':
            require_small(hit.image_size)
            hit = replace(hit, window=Window(0, 0, *hit.image_size[::-1]))
        try:
            return thumbnail(hit, SIDES[size], boxes=False)
        except Exception as error:  # decoders raise many kinds on a file that has changed
            raise unreadable(error) from error


def require_tile(index: ArchiveIndex, tile_id: str) -> TileRecord:
    """The tile of a name.

    Raises:
        Refused: when there is none.
    """
    tile = find_tile(index.catalog, tile_id)
    if tile is None:
        raise Refused(404, 'the index has no such tile; search again')
    return tile


def hit_of(index: ArchiveIndex, tile: TileRecord) -> Hit:
    """A tile with its file; one that is not within the archive, of an index that somebody made up, is none.

    Raises:
        Refused: when it is none.
    """
    name = os.fsdecode(tile.path)
    if os.path.isabs(name) or '..' in Path(name).parts:
        raise Refused(404, 'the index names a file that is not in its archive')
    return Hit.of(tile, index.archive)


def state_of(path: str) -> FileState:
    """What changes with a file.

    Raises:
        Refused: when it is not there.
    """
    try:
        return FileState.of(path)
    except OSError as error:
        raise Refused(410, 'the image is not there any more') from error


def rendering_of(hit: Hit) -> Rendering | None:
    """How the values of a scene became pixels."""
    return None if hit.scene is None else hit.scene.rendering


def require_small(size: tuple[int, int]) -> None:
    """Raise Refused for an image that is too large to be held whole."""
    if size[0] * size[1] > WHOLE:
        raise Refused(413, f'the image of {size[1]} x {size[0]} pixels is too large to be read whole, above {WHOLE}')


def unreadable(error: Exception) -> Refused:
    """What a client is told of a file that cannot be read, and the terminal why."""
    logger.warning('%s', error)
    return Refused(410, 'the image cannot be read any more, or has changed')


def relative(path: str, archive: Path) -> str:
    """The name of an image within its archive, on one line."""
    return escaped(os.path.relpath(path, archive) if Path(path).is_relative_to(archive) else os.path.basename(path))


def described(hit: Hit) -> dict[str, Any]:
    """A hit as the page takes it."""
    return properties(hit) | dict(image_size=hit.image_size, whole=hit.is_whole, footprint=hit.footprint)
