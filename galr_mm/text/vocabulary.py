"""Words and their token ids."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from galr_mm.messages import reason, shorten
from galr_mm.text.normalize import caption_words
from galr_mm.utils.io import read_json, write_text


class Vocabulary:
    """Maps words to ids: 0 is padding, 1 any unknown word.

    >>> vocabulary = Vocabulary.from_captions(['a red roof', 'a green roof'])
    >>> vocabulary.words
    ['<pad>', '<unk>', 'a', 'roof', 'green', 'red']
    >>> vocabulary.encode('A BLUE roof.')
    [2, 1, 3]
    """

    pad, unknown = 0, 1

    def __init__(self, words: list[str]) -> None:
        are_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not are_words or words[:2] != ['<pad>', '<unk>'] or len(set(words)) != len(words):
            raise ValueError(
                f"a vocabulary is a list of distinct words that starts with '<pad>', '<unk>', got {shorten(words)}"
            )
        self.words = words
        self._index = {word: index for index, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """Words that occur at least ``min_count`` times, the frequent ones first, equals in alphabetical order."""
        counts = Counter(word for caption in captions for word in caption_words(caption))
        kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return cls(['<pad>', '<unk>', *(word for _, word in kept)])

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: with the command that makes a vocabulary.
            ValueError: when the file is not a vocabulary.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f'no vocabulary at {path}; make one with '
                f'`python tools/dataset_converters/build_vocabulary.py CAPTIONS.json --out {path}`'
            )
        content = read_json(path, 'a vocabulary')
        try:
            return cls(content['words'])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path} is not a vocabulary: {reason(error)}') from error

    def save(self, path: str | Path) -> None:
        """Write json; a file is replaced as a whole."""
        write_text(path, json.dumps({'words': self.words}, ensure_ascii=False, indent=0))

    def encode(self, text: str) -> list[int]:
        """Ids of the words of ``text``; a text without any word is one unknown word."""
        return [self._index.get(word, self.unknown) for word in caption_words(text)] or [self.unknown]

    def unknown_words(self, captions: Iterable[str]) -> Counter[str]:
        """Words of ``captions`` that have no id, with how often each occurs."""
        return Counter(word for caption in captions for word in caption_words(caption) if word not in self._index)

    @property
    def fingerprint(self) -> int:
        """A checksum that tells two vocabularies apart; it travels with the weights."""
        return zlib.crc32('\n'.join(self.words).encode())
