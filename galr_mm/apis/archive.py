"""Index an archive of images and search it by sentences and images, in the manner of mmpretrain's inferencers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from tqdm import tqdm

from galr_mm.apis.archive_model import ArchiveModel, Query
from galr_mm.archive import (
    ArchiveIndex,
    Cut,
    Engine,
    FileState,
    Hit,
    MilvusEngine,
    Report,
    Where,
    export_hits,
    nearest,
    open_writer,
    read_metadata,
    update_archive,
)
from galr_mm.archive.bank import NAME as BANK
from galr_mm.archive.bank import Bank, CandidateReranker
from galr_mm.archive.places import MERGES, kept_of
from galr_mm.archive.search import QUERIES
from galr_mm.archive.sidecars import compiled
from galr_mm.archive.store import Snapshot
from galr_mm.functional.checks import check_whole
from galr_mm.imagery import SceneReading
from galr_mm.messages import shorten

SHEET = 'hits.html'
MORE = 4  # times the hits that are wanted, where several may be of one place


class ArchiveIndexer:
    """Keeps the index of a folder of images up to date.

    Args:
        model: any retriever of ours, see :class:`galr_mm.apis.archive_model.ArchiveModel`; None is the one that comes
            with the package. A GaLR with a detector inside puts the objects of each image into the index.
        index: folder of the index; it is made where there is none.
        pretrained: checkpoint of a model that is not built; True takes what the package or the config names.
        device: where the model goes.
        tile: cut images with a longer side into tiles of so many pixels; None leaves all whole.
        overlap: pixels that neighboring tiles share.
        min_valid: fraction of a scene's tile that has to hold data; other tiles are left out.
        scenes: how scenes (GeoTIFF) become pixels, a :class:`galr_mm.imagery.SceneReading` or its arguments.

    Raises:
        ValueError: when the model has no weights, tiles would not move on, or a setting of scenes makes no sense.
        FileNotFoundError: when a config or a checkpoint is missing.

    Example::

        report = ArchiveIndexer('galr_rsicd', 'index', pretrained='galr.pth').update('images')
        print(report, report.skipped)
    """

    def __init__(
        self,
        model: BaseModel | str | Path | Config | None,
        index: str | Path,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        tile: int | None = None,
        overlap: int = 0,
        min_valid: float = 0.5,
        scenes: SceneReading | Mapping[str, Any] | None = None,
    ) -> None:
        scenes = scenes if isinstance(scenes, SceneReading) else SceneReading(**(scenes or {}))
        self.cut = Cut(tile, overlap, min_valid, scenes)
        self.index = Path(index)
        self.model = ArchiveModel(model, pretrained, device)

    def update(
        self,
        archive: str | Path,
        metadata: str | Path | None = None,
        prune: bool = False,
        batch_size: int = 8,
        show_progress: bool = True,
        name_pattern: str | None = None,
    ) -> Report:
        """Encode what is new or changed; see :func:`galr_mm.archive.update_archive` for what is not.

        Args:
            archive: the folder of images.
            metadata: CSV table of what is known of them, see :func:`galr_mm.archive.read_metadata`.
            prune: delete files that have vanished, in place of hiding them until they come back.
            batch_size: images or tiles at a time.
            show_progress: draw a bar.
            name_pattern: what names of files say of them, a regular expression with named groups, see
                :func:`galr_mm.archive.sidecars.compiled`; None takes that of the last time.

        Raises:
            BlockingIOError: when another process changes the index.
            ValueError: when the index is of another model or made with other tiles, the archive holds no image, or
                ``prune`` would delete more than half of it.
            OSError: when the archive is not there, or the index cannot be written.
        """
        descriptions = None if metadata is None else read_metadata(metadata)
        compiled(name_pattern or '')  # which checks it
        with open_writer(self.index, self.model.id, dict(cut=str(self.cut))) as writer:
            return update_archive(
                writer, archive, self.model.encode_pieces, self.cut, descriptions, prune, batch_size, show_progress,
                name_pattern,
            )  # fmt: skip

    def make_bank(self, captions: Sequence[str], images: Sequence[str | Path] = (), batch_size: int = 8) -> Path:
        """Write a query bank into the index, for re-ranking: captions for sentences, images for images.

        Args:
            captions: such as those of a training split, not those that are going to be asked.
            images: likewise.
            batch_size: images at a time.

        Raises:
            FileNotFoundError: when there is no index.
            ValueError: when it is of another model, or there is no caption.
        """
        if isinstance(captions, str) or not len(captions):
            raise ValueError(f'captions are {shorten(captions)}, expected a list of one or more')
        with open_writer(self.index, None) as writer:
            self.model.id.require(self.index, writer.meta)
            text = self.model.encode_sentences(list(captions))
            image = np.zeros((0, text.shape[1]), np.float32)
            if images:
                scenes = SceneReading.of(writer.meta.get('cut', ''), self.cut.scenes.trusted)
                image, _ = self.model.encode_queries([Path(path) for path in images], batch_size, scenes)
            Bank(text, image).save(self.index / BANK, self.model.id.fingerprint)
        return self.index / BANK


class ArchiveSearcher:
    """Finds the images, or the parts of them, that fit sentences and images. The answer is exact without an engine.

    Args:
        model: the one that filled the index; None is the one that comes with the package.
        index: folder of the index. What a writer commits meanwhile is seen by the next search.
        pretrained, device: see :class:`ArchiveIndexer`.
        bank: query bank for re-ranking, by default the one in the index.
        engine: address of a Milvus that was filled from the index, see :class:`galr_mm.archive.MilvusEngine`, or
            anything else that searches; None compares all vectors. Filters, re-ranking and scores are the same.
        or_exact: where the Milvus fails, warn and compare all vectors.
        trusted: also read VRT files with all that they name, as queries and for ``show_dir``; for an index that was
            made so. Other scenes are read as the index was made.

    Raises:
        FileNotFoundError: when there is no index.
        ValueError: when it, or the engine, was filled by another model; names both.
        OSError: when the engine does not answer, or holds another state of the index.

    Example::

        search = ArchiveSearcher('galr_rsicd', 'index', pretrained='galr.pth')
        for hit in search('planes beside a terminal', topk=5, where=Where(start='2021-06-01'))[0]:
            print(hit.score, hit.path, hit.window)
    """

    def __init__(
        self,
        model: BaseModel | str | Path | Config | None,
        index: str | Path,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        bank: str | Path | None = None,
        engine: str | Path | Engine | None = None,
        or_exact: bool = False,
        trusted: bool = False,
    ) -> None:
        self.index = ArchiveIndex(index)
        self.scenes = SceneReading.of(self.index.meta.get('cut', ''), trusted)
        self.engine: Engine = nearest
        if isinstance(engine, (str, Path)):
            self.engine = milvus = MilvusEngine(self.index, str(engine), or_exact)
            milvus.open()
        elif engine is not None:
            self.engine = engine
        self.model = ArchiveModel(model, pretrained, device)
        self.model.id.require(index, self.index.meta)
        self.bank_path = self.index.folder / BANK if bank is None else Path(bank)
        self._bank: tuple[FileState | None, Bank] | None = None

    def __call__(
        self,
        inputs: Query | Sequence[Query],
        topk: int = 10,
        where: Where | Mapping[str, Any] | None = None,
        rerank: str | Mapping[str, Any] | None = None,
        show_dir: str | Path | None = None,
        batch_size: int = 8,
        show_progress: bool = False,
        merge: str = 'tiles',
    ) -> list[list[Hit]]:
        """The best hits of each query, best first.

        Args:
            inputs: one query or several. A text is a sentence, unless it ends like the name of an image file; images
                are paths, BGR uint8 arrays (H, W, 3) or PIL images.
            topk: at most so many hits of each.
            where: filter, :class:`galr_mm.archive.Where` or its arguments.
            rerank: 'mr', 'rr', 'dsl', 'qbnorm' or 'csls', or ``dict(type=..., k=30, ...)``: the k best of the filter
                get a new order, those after them keep theirs.
            show_dir: folder for ``hits.html``, a page with the images, which each call replaces.
            batch_size: images at a time.
            show_progress: draw a bar.
            merge: which hits are one place, of which the best is given: 'tiles' of one file that share pixels, 'places'
                also tiles of other files whose footprints overlap, or 'none'.

        Raises:
            TypeError, ValueError: for queries, filters or settings of another kind; names them.
            OSError: when an image, the index or the bank cannot be read.
        """
        queries = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Sequence) else list(inputs)
        if not isinstance(where, (Where, Mapping, type(None))):
            raise TypeError(f'where is {shorten(where)}, expected a Where or its arguments by name')
        where = where if isinstance(where, Where) else Where(**(where or {}))
        reranker = None if rerank is None else CandidateReranker(rerank)
        check_whole('topk', topk)
        topk = int(topk)
        if merge not in MERGES:
            raise ValueError(f'merge is {merge!r}, expected one of {", ".join(MERGES)}')
        hits: list[list[Hit]] = []
        for start in tqdm(range(0, len(queries), QUERIES), desc='searching', disable=not show_progress):
            vectors, are_images = self.model.encode_queries(queries[start : start + QUERIES], batch_size, self.scenes)
            hits += self.search(vectors, are_images, topk, where, reranker, merge)
        if show_dir is not None:
            export_hits(
                list(zip(map(words_of, queries), hits, strict=True)), Path(show_dir, SHEET), self.scenes.trusted
            )
        return hits

    def search(
        self,
        vectors: np.ndarray,
        are_images: Sequence[bool],
        topk: int,
        where: Where,
        reranker: CandidateReranker | None,
        merge: str = 'tiles',
    ) -> list[list[Hit]]:
        """As :meth:`__call__`, for queries (n, D) that are encoded already."""
        with self.index.snapshot() as snapshot:
            rows = self.index.catalog.rows_where(where) if where.restricts else None
            asked = max(topk if merge == 'none' else topk * MORE, reranker.k if reranker else 0)
            found = self.engine(snapshot, vectors, asked, rows)
            hits = []
            for query, is_image, own, scores in zip(vectors, are_images, *found, strict=True):
                wanted = asked
                while True:
                    listed = self._listed(snapshot, query, is_image, own, scores, where, reranker)
                    tiles = self.index.catalog.tiles(row for row, _, _ in listed)
                    kept = kept_of([tiles[row] for row, _, _ in listed], merge)
                    if len(kept) >= topk or len(listed) < wanted:
                        break
                    wanted *= MORE  # most of these are of a few places
                    own, scores = (array[0] for array in self.engine(snapshot, query[None], wanted, rows))
                best = [listed[index] for index in kept[:topk]]
                hits.append([Hit.of(tiles[row], self.index.archive, score, new) for row, score, new in best])
        return hits

    def _listed(
        self,
        snapshot: Snapshot,
        query: np.ndarray,
        is_image: bool,
        rows: np.ndarray,
        scores: np.ndarray,
        where: Where,
        reranker: CandidateReranker | None,
    ) -> list[tuple[int, float, float | None]]:
        """Rows of one query that score enough, in their final order, with cosines and new scores."""
        enough = scores >= (-np.inf if where.min_score is None else where.min_score)
        rows, scores = rows[enough], scores[enough]
        new: list[float | None] = [None] * len(rows)
        if reranker is not None and len(rows):
            rows, scores, new = self._rerank(reranker, snapshot, query, is_image, rows, scores)
        return list(zip(rows.tolist(), scores.tolist(), new, strict=True))

    @property
    def bank(self) -> Bank:
        """The query bank, as its file is now.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when it is of another model or damaged.
        """
        state = FileState.of(self.bank_path) if self.bank_path.is_file() else None
        if self._bank is None or self._bank[0] != state:
            self._bank = state, Bank.load(self.bank_path, self.model.id.fingerprint, self.model.id.dim)
        return self._bank[1]

    def _rerank(
        self,
        reranker: CandidateReranker,
        snapshot: Snapshot,
        query: np.ndarray,
        is_image: bool,
        rows: np.ndarray,
        scores: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
        bank = self.bank.image if is_image else self.bank.text
        if not len(bank):
            raise ValueError(f'{self.bank_path} holds no {"images" if is_image else "captions"} to re-rank by')
        head = np.sort(rows[: reranker.k])
        order, new = reranker(bank, query, snapshot.vectors(head))
        cosine = dict(zip(rows.tolist(), scores.tolist(), strict=True))
        rows = np.concatenate([head[order], rows[reranker.k :]])
        kept = [None] * (len(rows) - len(head))
        return rows, np.array([cosine[row] for row in rows.tolist()]), [*new.tolist(), *kept]


def words_of(query: Query) -> str:
    """A query as a heading: a sentence, or the name of an image."""
    return str(query) if isinstance(query, (str, Path)) else f'an image ({type(query).__name__})'
