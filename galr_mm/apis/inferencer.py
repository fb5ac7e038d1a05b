from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from galr_mm.apis.archive import SHEET, words_of
from galr_mm.apis.archive_model import ArchiveModel, Query, as_image
from galr_mm.archive import Hit, export_hits
from galr_mm.functional.checks import check_whole
from galr_mm.imagery import Window, list_images, open_scene


@dataclass(frozen=True)
class Match:
    """One item of a gallery that a query found.

    Args:
        index: of the item in the gallery.
        item: the sentence or the image itself.
        score: its cosine with the query.
    """

    index: int
    item: Query
    score: float


class RetrievalInferencer:
    """Finds images by sentences, sentences by images, and images by images, in a gallery that is kept in memory.

    mmpretrain's two retrieval inferencers in one, for any retriever here. The gallery is encoded once, when it is
    given. What is to be kept, to grow, or to be filtered wants an index: :class:`galr_mm.apis.ArchiveIndexer`.

    Args:
        model: any retriever of ours, see :class:`galr_mm.apis.ArchiveIndexer`; None is the one that comes with the
            package.
        gallery: sentences and images, by the rule of queries; or a folder or a caption file, whose images it is.
        pretrained, device: see :class:`galr_mm.apis.ArchiveIndexer`.
        batch_size: images at a time.

    Attributes:
        gallery: its items, in order.
        vectors: their embeddings, float32 (n, D), L2-normalized.

    Raises:
        TypeError, ValueError: for an item that is neither a sentence nor an image, an empty gallery, or a model without
            weights.
        OSError: when an image cannot be read; names it.

    Example::

        find = RetrievalInferencer('dual_encoder_lite0_gru_rsicd', 'my_images')
        for match in find('planes beside a terminal', topk=5)[0]:
            print(match.score, match.item)
        describe = RetrievalInferencer(model, ['a plane beside a runway', 'a river'])
        describe('river.jpg', topk=1)
    """

    def __init__(
        self,
        model: BaseModel | str | Path | Config | None,
        gallery: str | Path | Sequence[Query],
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        if isinstance(gallery, (str, Path)):
            folder, names = list_images(gallery)
            gallery = [folder / name for name in names]
        self.gallery: list[Query] = list(gallery)
        if not self.gallery:
            raise ValueError('the gallery is empty, expected sentences or images')
        self.model = ArchiveModel(model, pretrained, device)
        self.vectors, _ = self.model.encode_queries(self.gallery, batch_size)

    def __call__(
        self,
        inputs: Query | Sequence[Query],
        topk: int = 10,
        show_dir: str | Path | None = None,
        batch_size: int = 8,
    ) -> list[list[Match]]:
        """The best items for each query, best first; equal ones in the order of the gallery.

        Args:
            inputs: one query or several. A text is a sentence, unless it ends like the name of an image file; images
                are paths, BGR uint8 arrays (H, W, 3) or PIL images.
            topk: at most so many of each.
            show_dir: folder for ``hits.html``, a page with the images; for a gallery of image files.
            batch_size: images at a time.

        Raises:
            TypeError, ValueError: for queries or settings of another kind; names them.
            OSError: when an image cannot be read.
        """
        check_whole('topk', topk)
        files = [image for image in map(as_image, self.gallery) if isinstance(image, Path)]
        if show_dir is not None and len(files) < len(self.gallery):
            raise ValueError('show_dir is for a gallery of image files; this one holds others')
        queries = [inputs] if isinstance(inputs, str) or not isinstance(inputs, Sequence) else list(inputs)
        vectors, _ = self.model.encode_queries(queries, batch_size)
        scores = vectors @ self.vectors.T
        best = np.argsort(-scores, axis=1, kind='stable')[:, : int(topk)]
        found = [
            [Match(index, self.gallery[index], row[index].item()) for index in order.tolist()]
            for row, order in zip(scores, best, strict=True)
        ]
        if show_dir is not None:
            hits = [[_as_hit(files[match.index], match.score) for match in matches] for matches in found]
            export_hits(list(zip(map(words_of, queries), hits, strict=True)), Path(show_dir, SHEET))
        return found


def _as_hit(path: Path, score: float) -> Hit:
    """A whole image as an archive's search gives it."""
    with open_scene(path) as image:
        size = image.height, image.width
    return Hit(str(path), score, path.name, Window(0, 0, size[1], size[0]), size)
