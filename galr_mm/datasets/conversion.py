"""From caption lists as published to what the data sets read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from galr_mm.datasets.captions import SPLITS, clean_split
from galr_mm.imagery.files import ImageFolder, listed_names
from galr_mm.text import Vocabulary


class CleanedRecords(NamedTuple):
    """Records of all splits without blank captions, and per split a line about what was left out."""

    records: list[dict[str, Any]]
    summaries: dict[str, str]


def clean_records(records: list[dict[str, Any]], source: str | Path) -> CleanedRecords:
    """Drop blank captions and training images without any; 'restval' becomes 'train'.

    Raises:
        ValueError: when there is no training image, or a val or test image has no caption; names ``source``.
    """
    kept: list[dict[str, Any]] = []
    summaries = {}
    for split in SPLITS:
        if split == 'train' or any(record['split'] == split for record in records):
            clean = clean_split(records, split, source)
            kept += [{**record, 'split': split} for record in clean.records]
            if clean.summary():
                summaries[split] = clean.summary()
    return CleanedRecords(kept, summaries)


def match_files(records: list[dict[str, Any]], folder: Path) -> int:
    """Give records the names that their images have in ``folder``, see :class:`galr_mm.imagery.ImageFolder`.

    Returns:
        How many names were changed.

    Raises:
        FileNotFoundError: when images are missing; names the first of them.
        ValueError: when more than one file could be an image, or one file is the image of two records.
    """
    located = ImageFolder(folder).locate(list(map(listed_names, records)))
    changed = sum(record['filename'] != name for record, name in zip(records, located, strict=True))
    for record, name in zip(records, located, strict=True):
        record.pop('filepath', None)
        record['filename'] = name
    return changed


def build_vocabulary(records: list[dict[str, Any]], min_count: int = 1) -> Vocabulary:
    """Vocabulary of the training captions.

    Raises:
        ValueError: when ``min_count`` is below 1, there are no training captions, or no word of them occurs so often.

    Example:
        >>> record = {'filename': 'a.jpg', 'split': 'train', 'sentences': [{'raw': 'A river.'}]}
        >>> build_vocabulary([record]).words
        ['<pad>', '<unk>', 'a', 'river']
    """
    if min_count < 1:
        raise ValueError(f'min_count is {min_count}, expected 1 or more')
    captions = captions_by_split(records)['train']
    if not captions:
        raise ValueError('there are no training captions')
    vocabulary = Vocabulary.from_captions(captions, min_count)
    if len(vocabulary) == 2:
        raise ValueError(f'no word occurs {min_count} times in the training captions')
    return vocabulary


def describe_vocabulary(vocabulary: Vocabulary, records: list[dict[str, Any]]) -> str:
    """How many words there are, and how many of val and test are unknown."""
    captions = captions_by_split(records)
    lines = [f'{len(vocabulary) - 2} words of {len(captions["train"])} training captions']
    for split in ('val', 'test'):
        unknown = vocabulary.unknown_words(captions[split])
        common = ', '.join(word for word, _ in unknown.most_common(10))
        lines.append(f'{split}: {len(unknown)} unknown words, {unknown.total()} times{": " + common if common else ""}')
    return '\n'.join(lines)


def captions_by_split(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Captions of each split; 'restval' counts as 'train'."""
    captions: dict[str, list[str]] = {split: [] for split in SPLITS}
    for record in records:
        split = 'train' if record['split'] == 'restval' else record['split']
        captions[split] += [sentence['raw'] for sentence in record['sentences']]
    return captions
