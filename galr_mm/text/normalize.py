"""What makes two captions the same: their words, without case and punctuation."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def caption_words(text: str) -> list[str]:
    """Lower-case words of a caption; punctuation is left out.

    >>> caption_words("Two planes, parked near the airport's T1 .")
    ['two', 'planes', 'parked', 'near', 'the', "airport's", 't1']
    """
    return _WORD.findall(text.lower().replace('\u2019', "'"))


def caption_key(text: str) -> str:
    """Equal for captions of equal words, which a word-level text encoder cannot tell apart.

    >>> caption_key('A river.') == caption_key('a  river !')
    True
    """
    return ' '.join(caption_words(text))
