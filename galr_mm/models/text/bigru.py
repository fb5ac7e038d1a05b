from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from galr_mm.messages import shorten
from galr_mm.models.text.tokenized import TokenizedTextEncoder
from galr_mm.registry import MODELS
from galr_mm.text import Vocabulary
from galr_mm.text.normalize import caption_words

ENOUGH = 8  # captions of a batch that are not all of unknown words by chance


@MODELS.register_module()
class BiGRUEncoder(TokenizedTextEncoder):
    r"""Word embedding, bidirectional GRU, mean of directions and of words, then an MLP (GaLR Sec. III-B, figure).

    .. math::
        v_t = \mathrm{MLP}\Bigl(\frac{1}{2L} \sum_{i=1}^{L} (\overrightarrow{h}_i + \overleftarrow{h}_i)\Bigr)

    Args:
        vocabulary: a vocabulary or the path of one; its words travel with the weights (:func:`words_of`), and loading
            weights that were trained with another vocabulary is an error.
        embed_dim: width of the output.
        word_dim: width of the word embedding.
        hidden_dim: width of the GRU, of each direction.
        dropout: on the word embedding and in the MLP.
        word_vectors: text file of ready vectors, ``word v1 v2 ...`` a line (GloVe, word2vec and fastText have this
            form), to start the embedding from; its width must be ``word_dim``.

    Shapes:
        - input: list of T captions, or int64 (T, L) word ids padded with 0
        - output: (T, embed_dim), not normalized

    Example:
        >>> from galr_mm.text import Vocabulary
        >>> encoder = BiGRUEncoder(Vocabulary(['<pad>', '<unk>', 'a', 'river']), embed_dim=8)
        >>> encoder.tokenize(['A river.', 'a bridge over a river']).tolist()
        [[2, 3, 0, 0, 0], [2, 1, 1, 2, 3]]
        >>> tuple(encoder(['A river.', 'a bridge over a river']).shape)
        (2, 8)
    """

    pad_id = Vocabulary.pad

    def __init__(
        self,
        vocabulary: str | Vocabulary,
        embed_dim: int = 512,
        word_dim: int = 300,
        hidden_dim: int = 512,
        dropout: float = 0.0,
        word_vectors: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.load(vocabulary)
        self.embedding = nn.Embedding(len(self.vocabulary), word_dim, padding_idx=Vocabulary.pad)
        if word_vectors is not None:
            self._load_word_vectors(Path(word_vectors))
        self.gru = nn.GRU(word_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, embed_dim)
        )
        self.dropout = nn.Dropout(dropout)
        self.register_buffer('vocabulary_fingerprint', torch.tensor(self.vocabulary.fingerprint))
        words = '\n'.join(self.vocabulary.words).encode()
        self.register_buffer('vocabulary_words', torch.tensor(list(words), dtype=torch.uint8))

    def _load_word_vectors(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f'no word vectors at {path}')
        index = {word: i for i, word in enumerate(self.vocabulary.words)}
        width, found = self.embedding.embedding_dim, 0
        with path.open(encoding='utf-8') as lines, torch.no_grad():
            for line_number, line in enumerate(lines):
                word, *values = line.rstrip().split(' ')
                if line_number == 0 and len(values) == 1:  # word2vec and fastText: "<words> <width>"
                    continue
                if len(values) != width:
                    raise ValueError(
                        f'{path} line {line_number + 1} holds {len(values)} values, expected word_dim={width}'
                    )
                if word in index:
                    self.embedding.weight[index[word]] = torch.tensor([float(v) for v in values])
                    found += 1
        print_log(f'word vectors for {found} of {len(self.vocabulary) - 2} words from {path}', 'current')

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Word ids of captions, int64 (T, L), padded with 0.

        Raises:
            ValueError: in training, when no word of ``ENOUGH`` captions or more is known: the vocabulary is of other
                data. A few captions of rare words may be.
        """
        ids = [torch.tensor(self.vocabulary.encode(text)) for text in texts]
        if self.training and len(ids) >= ENOUGH and all((i == Vocabulary.unknown).all() for i in ids):
            raise ValueError(
                f'none of the words of {len(texts)} training captions is in the vocabulary of {len(self.vocabulary)} '
                f'words; the first caption is {shorten(texts[0])}'
            )
        return pad_sequence(ids, batch_first=True, padding_value=Vocabulary.pad)

    @staticmethod
    def is_blank(text: str) -> bool:
        """Whether a caption has no words, as one of punctuation."""
        return not caption_words(text)

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words without an id, with how often each occurs."""
        return self.vocabulary.unknown_words(texts)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Features (T, embed_dim) of word ids (T, L)."""
        ids = ids.to(self.embedding.weight.device)
        mask = ids != Vocabulary.pad  # T, L
        lengths = mask.sum(1).clamp(min=1)
        words = self.dropout(self.embedding(ids))
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=ids.shape[1])
        out = out.unflatten(-1, (2, -1)).mean(-2)  # T, L, H: mean of the directions
        pooled = out.sum(1) / lengths[:, None]  # padding is zero after unpacking
        return self.mlp(pooled)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        theirs = state_dict.get(f'{prefix}vocabulary_fingerprint')
        if theirs is not None and int(theirs) != self.vocabulary.fingerprint:
            raise ValueError(
                f'the weights were trained with another vocabulary than the one in use ({len(self.vocabulary)} words): '
                'point text_encoder.vocabulary at the file of that training'
            )
        state_dict.setdefault(f'{prefix}vocabulary_words', self.vocabulary_words)  # not in checkpoints of 0.2
        super()._load_from_state_dict(state_dict, prefix, *args)


def words_of(state_dict: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary that travels with the weights of a retriever whose text encoder is a :class:`BiGRUEncoder`."""
    words = state_dict.get('text_encoder.vocabulary_words')
    return None if words is None else Vocabulary(bytes(words.tolist()).decode().split('\n'))
