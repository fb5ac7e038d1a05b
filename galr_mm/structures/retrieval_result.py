from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from galr_mm.structures.retrieval_scores import Direction, RerankedScores, RetrievalScores


@dataclass(frozen=True)
class RetrievalResult:
    """What an evaluation found, for hooks, statistics and tools.

    Rows of the image side are ``image_ids`` in rising order, columns ``text_ids`` likewise. Ids are those of the data
    set; of concatenated ones, those of the next continue after the last of the one before.

    Args:
        scores: by prefix, '' for the raw scores and the name of each re-ranker for its own.
        image_ids: I.
        image_paths: I, None where a sample had none.
        text_ids: T.
        texts: T captions, or what stands for them.
        sources: the data sets, in words, where they say so.

    Example:
        >>> raw = RetrievalScores.from_matrix(torch.tensor([[0.2, 0.9], [0.5, 0.4]]), captions_per_image=1)
        >>> result = RetrievalResult({'': raw}, [7, 9], ['a.jpg', 'b.jpg'], [0, 1], ['a river', 'a road'])
        >>> result.ranks['']['t2i']
        tensor([1, 1])
        >>> result.top('t2i', [1], k=2)
        (tensor([[0, 1]]), tensor([[0.9000, 0.4000]]))
    """

    scores: Mapping[str, RetrievalScores | RerankedScores]
    image_ids: list[int]
    image_paths: list[str | None]
    text_ids: list[int]
    texts: list
    sources: tuple[str, ...] = ()

    @property
    def raw(self) -> RetrievalScores:
        """The raw scores, as matrices."""
        return self.scores[''].matrices()

    @property
    def positives(self) -> Tensor:
        """Bool (I, T), true where a caption describes an image."""
        return self.raw.positives

    @property
    def ranks(self) -> dict[str, dict[str, Tensor]]:
        """By prefix, the 0-based ranks of the best positive: 'i2t' (I,) and 't2i' (T,), -1 for queries without one."""
        return {prefix: scores.ranks for prefix, scores in self.scores.items()}

    def top(self, direction: Direction, queries: list[int], k: int, prefix: str = '') -> tuple[Tensor, Tensor]:
        """The k best of some queries, in descending order of score, equal ones by lower index.

        Only the rows of these queries are written out, also of re-ranked scores.

        Args:
            direction: 'i2t' or 't2i'.
            queries: rows of that direction, n.
            k: at most the gallery's size is given.
            prefix: '' for the raw scores, or the name of a re-ranker.

        Returns:
            Indices and scores, both (n, k).
        """
        rows = self.scores[prefix].rows(direction, torch.tensor(queries, dtype=torch.int64))
        scores, index = rows.sort(dim=1, descending=True, stable=True)
        return index[:, :k], scores[:, :k]
