from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from galr_mm.messages import clip, shorten


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

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self._cut_reported = False
        self._named: set[str] = set()

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, int64 (T, L)."""

    @staticmethod
    def is_blank(text: str) -> bool:
        """Whether the encoder sees nothing of a caption."""
        return not text.strip()

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the captions that are longer than what the encoder reads, whose end it does not see."""
        return []

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words that the encoder does not tell from each other, with how often each occurs."""
        return Counter()

    def report_lost(self, texts: Sequence[str], where: str = '') -> None:
        """Log what the encoder does not see of these captions: how many it cuts, once, and each unknown word once.

        Args:
            texts: captions.
            where: what they are, such as 'training: '.
        """
        cut = [] if self._cut_reported else self.cut(texts)
        if cut:
            self._cut_reported = True
            message = f'{where}{len(cut)} of {len(texts)} captions are longer than what the text encoder reads; their '
            message += f'ends are cut off. The first: {shorten(cut[0])}'
            print_log(message, 'current', logging.WARNING)
        unknown = Counter({word: n for word, n in self.unknown_words(texts).items() if word not in self._named})
        if unknown:
            self._named |= unknown.keys()
            message = (
                f'{where}{len(unknown)} words are not in the vocabulary, {unknown.total()} times, and all stand for '
            )
            message += f'one unknown word: {clip(", ".join(word for word, _ in unknown.most_common(20)), 300)}'
            print_log(message, 'current', logging.WARNING)

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
        if not isinstance(texts, Tensor):
            check_texts(texts)
        return self.encode_ids(texts if isinstance(texts, Tensor) else self.tokenize(list(texts)))


def check_texts(texts: Sequence[object]) -> None:
    """Refuse captions that are not strings, such as the NaN of an empty cell.

    Raises:
        TypeError: names the first.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f'caption {index} is {shorten(text)}, expected a string')
