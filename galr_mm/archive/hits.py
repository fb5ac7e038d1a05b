"""What a search gives: where the image is, which part of it, where on Earth, and what is known of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from galr_mm.archive.records import Box, SceneRecord, TileRecord
from galr_mm.imagery import Window


@dataclass(frozen=True)
class Hit:
    """One tile that a search found.

    Args:
        path: of the image.
        score: its cosine with the query, None where nothing was asked (an export of the index).
        tile_id: the same for the same part of the same file of the archive.
        window: the part, in pixels of the image.
        image_size: height and width of the image.
        footprint: geometry of the part in GeoJSON, degrees; None where its place is not known.
        boxes: its objects in pixels of the image, where the model has a detector.
        time: of the image in ISO 8601, UTC.
        platform, gsd: of the image.
        metadata: other fields.
        rerank_score: what a re-ranked list is ordered by.
        valid: fraction of the part of a scene that holds data.
        scene: how the values of a scene became pixels, and where it is; None of an image.
    """

    path: str
    score: float | None
    tile_id: str
    window: Window
    image_size: tuple[int, int]
    footprint: dict[str, Any] | None = None
    boxes: Sequence[Box] = ()
    time: str | None = None
    platform: str | None = None
    gsd: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    rerank_score: float | None = None
    valid: float | None = None
    scene: SceneRecord | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole image."""
        return self.window == (0, 0, self.image_size[1], self.image_size[0])

    @classmethod
    def of(cls, tile: TileRecord, archive: Path, score: float | None = None, rerank_score: float | None = None) -> Hit:
        """A tile of the catalogue, in an archive at this place."""
        return cls(
            path=os.path.join(archive, os.fsdecode(tile.path)),
            score=score,
            tile_id=tile.tile_id,
            window=tile.window,
            image_size=tile.image_size,
            footprint=tile.geometry,
            boxes=tile.boxes,
            time=None if tile.time is None else iso_time(tile.time),
            platform=tile.platform,
            gsd=tile.gsd,
            metadata=tile.metadata,
            rerank_score=rerank_score,
            valid=tile.valid,
            scene=tile.scene,
        )


def iso_time(time: int) -> str:
    """Milliseconds since 1970 UTC as text.

    >>> iso_time(86_400_000)
    '1970-01-02T00:00:00Z'
    """
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=time)
    return moment.isoformat(timespec='milliseconds' if time % 1000 else 'seconds').replace('+00:00', 'Z')
