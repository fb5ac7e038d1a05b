from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor


class TokenizedTextEncoder(BaseModule):
    """A text encoder that sees token ids only, so equal ids are one caption to it.

    A subclass gives :meth:`tokenize` and :meth:`encode_ids`. A retriever tokenizes once, encodes the ids, and passes on
    :meth:`text_keys`, by which an evaluator lets captions share one feature.

    Attributes:
        pad_id: token that pads the shorter captions of a batch and has no influence on the output; None where all
            captions get one length.

    Shapes:
        - input: list of T captions, or int64 (T, L) token ids
        - output: (T, embed_dim), not normalized
    """

    pad_id: int | None = None

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, int64 (T, L)."""

    @abstractmethod
    def encode_ids(self, ids: Tensor) -> Tensor:
        """Features (T, embed_dim) of token ids (T, L)."""

    def text_keys(self, ids: Tensor) -> list[tuple[int, ...]]:
        """One key a caption of ids (T, L), equal where the encoder gets the same input: its ids without padding."""
        return [tuple(token for token in row if token != self.pad_id) for row in ids.tolist()]

    def forward(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Encode captions or their token ids."""
        if not len(texts):
            raise ValueError('there are no captions to encode')
        return self.encode_ids(texts if isinstance(texts, Tensor) else self.tokenize(list(texts)))
