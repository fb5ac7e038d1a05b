"""Caption lists on disk: Karpathy-style json and the released ``*_precomp`` text lists.

Everything is held as Karpathy records, one an image::

    {'filename': 'airport_1.jpg', 'imgid': 0, 'split': 'train', 'sentids': [0, 1],
     'sentences': [{'raw': 'many planes are parked .', 'imgid': 0, 'sentid': 0}, ...]}
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from galr_mm.imagery.files import HOW_TO_GET_DATA, LISTED_SUFFIXES, listed_names, name_key
from galr_mm.messages import clip, first_of, reason, shorten
from galr_mm.text import caption_words
from galr_mm.utils.io import read_json

SPLITS = ('train', 'val', 'test')
SPLIT_WORDS = dict(
    train='train', training='train', restval='train', val='val', valid='val', validation='val', dev='val'
)
SPLIT_WORDS |= dict(test='test', testing='test')
KARPATHY, COCO = 'a Karpathy-style json', 'a json of COCO captions'
ROWS, NWPU = 'a list of images with captions', 'a json of classes with their images, as NWPU-Captions has it'
BY_SPLIT, BY_IMAGE = 'a json of splits with their images', 'a json of images with their captions'
TABLE, LINES = 'a table', 'a list of images with captions, one a line'
KIND_OF_SUFFIX = {'.csv': TABLE, '.tsv': TABLE, '.txt': TABLE, '.jsonl': LINES}
SURROGATE = re.compile('[\ud800-\udfff]')  # half a character, which json can say and no file can hold


class CleanRecords(NamedTuple):
    """Records of one split without blank captions, and what was left out."""

    records: list[dict]
    blank_captions: int
    dropped_images: list[str]

    def summary(self) -> str:
        """One line for a log; empty when nothing was left out."""
        if not self.blank_captions and not self.dropped_images:
            return ''
        text = f'{self.blank_captions} blank captions dropped'
        if self.dropped_images:
            text += f'; {len(self.dropped_images)} images without any caption dropped: '
            text += ', '.join(self.dropped_images)
        return text


def load_karpathy(path: str | Path) -> list[dict]:
    """Read and check a Karpathy-style json file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is something else, with the command that converts other lists, or a record lacks a field or
            holds a value of the wrong kind.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'no caption file at {path}; {HOW_TO_GET_DATA}')
    content: Any = None
    kind = 'a folder' if path.is_dir() else KIND_OF_SUFFIX.get(path.suffix.lower())
    if kind is None:
        content = read_json(path, KARPATHY)
        kind = json_kind(content)
    if kind != KARPATHY:
        raise ValueError(f'{path} is {kind}, not {KARPATHY}. {_how_to_convert(path)}')
    try:
        records = content['images']
        if not isinstance(records, list):
            raise TypeError(f"'images' is a {type(records).__name__}")
    except (KeyError, TypeError) as error:
        has = f'; it has {first_of([str(key) for key in content])}' if isinstance(content, dict) and content else ''
        raise ValueError(
            f"{path} is not {KARPATHY} with a list 'images': {reason(error)}{has}. Nor is it another caption list of "
            'docs/datasets.md'
        ) from error
    problems = [f'images[{index}] {problem}' for index, x in enumerate(records) if (problem := _record_problem(x))]
    if problems:
        more = f', and {len(problems) - 1} more of {len(records)} have problems' if len(problems) > 1 else ''
        raise ValueError(f'{path}: {problems[0]}{more}')
    return records


def json_kind(content: object) -> str:
    """Which kind of caption list a json holds; KARPATHY also for what is none of them."""
    if isinstance(content, list):
        return ROWS
    if not isinstance(content, dict):
        return KARPATHY
    notes = content.get('annotations')
    if isinstance(notes, list) and any(isinstance(note, dict) and 'caption' in note for note in notes):
        return COCO
    if 'images' in content or not any(content.values()) or _has_sentences(content):
        return KARPATHY
    if all(os.path.splitext(name)[1].lower() in LISTED_SUFFIXES for name in content):
        return BY_IMAGE
    if not all(isinstance(x, list) and all(isinstance(entry, dict) for entry in x) for x in content.values()):
        return KARPATHY
    return BY_SPLIT if all(word.lower() in SPLIT_WORDS for word in content) else NWPU


def _has_sentences(content: dict[str, Any]) -> bool:
    """Whether records of Karpathy's form stand under another name than 'images'."""
    lists = [value for value in content.values() if isinstance(value, list)]
    return any(isinstance(entry, dict) and 'sentences' in entry for entries in lists for entry in entries[:1])


def _how_to_convert(path: Path) -> str:
    return (
        f'`python tools/dataset_converters/convert_captions.py {path} --images IMAGES --out DATASET.json` makes one of '
        'other caption lists'
    )


def _record_problem(record: object) -> str:
    if not isinstance(record, dict):
        return f'is {shorten(record)}, expected a dict'
    for key in ('filename', 'split', 'sentences'):
        if key not in record:
            return f"({shorten(record.get('filename', 'no filename'))}) has no '{key}'"
    if not isinstance(record['filename'], str) or not record['filename']:
        return f'has the filename {shorten(record["filename"])}, expected a name'
    if record['split'] not in (*SPLITS, 'restval'):
        split = shorten(record['split'])
        return f"({shorten(record['filename'])}) has split {split}, expected one of {SPLITS} or 'restval'"
    if not isinstance(record['sentences'], list) or not all(
        isinstance(s, dict) and isinstance(s.get('raw'), str) for s in record['sentences']
    ):
        return f"({shorten(record['filename'])}) needs sentences=[{{'raw': str, ...}}, ...]"
    broken = next((s['raw'] for s in record['sentences'] if SURROGATE.search(s['raw'])), None)
    if broken is not None:
        return f'({shorten(record["filename"])}) has the caption {shorten(broken)}, which holds half a character'
    if not isinstance(record.get('filepath', ''), str):
        return f'({shorten(record["filename"])}) has the filepath {shorten(record["filepath"])}, expected a folder'
    return ''


def read_precomp(folder: str | Path) -> list[dict]:
    """Read the released lists ``{train,val,test}_filename.txt`` and ``{...}_caps.txt`` of a folder.

    A file-name list has one line an image (its captions then follow each other, as many for each) or one line
    a caption.

    Raises:
        FileNotFoundError: when a list of the pair is missing, or no pair is there.
        ValueError: when the counts of lines do not fit each other; names both files and their lengths.
    """
    folder = Path(folder)
    records: list[dict] = []
    each: dict[str, set[int]] = {}  # captions of an image
    for split in SPLITS:
        names_path, caps_path = folder / f'{split}_filename.txt', folder / f'{split}_caps.txt'
        if not names_path.exists() and not caps_path.exists():
            continue
        for path in (names_path, caps_path):
            if not path.is_file():
                raise FileNotFoundError(f'{path} is missing; {HOW_TO_GET_DATA}')
        names, captions = read_lines(names_path), read_lines(caps_path)
        grouped = _group(names, captions, names_path, caps_path)
        records += [_record(name, split, texts) for name, texts in grouped.items()]
        each[split] = {len(texts) for texts in grouped.values()}
    if not records:
        raise FileNotFoundError(f'{folder} holds no train_filename.txt, train_caps.txt, ...; {HOW_TO_GET_DATA}')
    if all(len(counts) == 1 for counts in each.values()) and len(set.union(*each.values())) > 1:
        found = ', '.join(f'{min(counts)} in {split}' for split, counts in each.items())
        raise ValueError(f'{folder}: the number of captions per image differs ({found}); a list was cut')
    return number_records(records)


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file.

    Raises:
        ValueError: when it is not UTF-8; names it.
    """
    # split by hand: a blank caption line counts, and some lists hold characters str.splitlines would break at
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 text: {error}') from error
    return [line.rstrip('\r') for line in text.removesuffix('\n').split('\n')] if text else []


def _group(names: list[str], captions: list[str], names_path: Path, caps_path: Path) -> dict[str, list[str]]:
    lengths = f'{names_path} has {len(names)} lines and {caps_path} has {len(captions)}'
    if not names or not captions:
        raise ValueError(f'an empty list: {lengths}')
    if not all(name.strip() for name in names):
        raise ValueError(f'{names_path} line {[bool(n.strip()) for n in names].index(False) + 1} is blank')
    if len(captions) % len(names):
        raise ValueError(
            f'{lengths}: expected the same number (one line a caption) or a multiple of it (one line an image)'
        )
    each = len(captions) // len(names)
    if each > 1 and len(set(names)) < len(names):
        raise ValueError(f'{lengths}: one line an image, but some images are listed more than once')
    grouped: dict[str, list[str]] = {}
    for index, caption in enumerate(captions):
        grouped.setdefault(names[index // each].strip(), []).append(caption)
    return grouped


def _record(name: str, split: str, texts: Iterable[str]) -> dict:
    return {'filename': name, 'split': split, 'sentences': [{'raw': text.strip()} for text in texts]}


def number_records(records: list[dict]) -> list[dict]:
    """Give images and sentences the consecutive ids of the Karpathy format."""
    sentid = 0
    for imgid, record in enumerate(records):
        record['imgid'] = imgid
        for sentence in record['sentences']:
            sentence.update(imgid=imgid, sentid=sentid)
            sentid += 1
        record['sentids'] = [sentence['sentid'] for sentence in record['sentences']]
    return records


def sentid_problem(records: list[dict]) -> str:
    """Why the ``sentid`` of sentences do not tell them apart; empty where they do.

    >>> sentid_problem([{'filename': name, 'sentences': [{'raw': 'a river', 'sentid': 0}]} for name in 'ab'])
    'a and b both have the sentid 0, so they restart; expected one of its own for each sentence of the file'
    """
    owners: dict[int, str] = {}
    for record in records:
        for sentence in record['sentences']:
            sentid = sentence.get('sentid')
            if not isinstance(sentid, int) or isinstance(sentid, bool) or sentid < 0:
                return f'{record["filename"]} has the sentid {sentid!r}, expected 0 or more'
            if sentid in owners:
                return (
                    f'{owners[sentid]} and {record["filename"]} both have the sentid {sentid}, so they restart; '
                    'expected one of its own for each sentence of the file'
                )
            owners[sentid] = record['filename']
    return ''


def clean_split(records: list[dict], split: str, source: str | Path) -> CleanRecords:
    """Records of one split without captions that hold no word.

    In training an image left without a caption is dropped. In val and test nothing may silently leave the protocol:
    an image with a record for each of its captions would be as many images of the gallery.

    Raises:
        ValueError: when an image has more than one record, a val or test image is left without a caption, or the split
            is empty; names ``source``.
    """
    blank, dropped, kept = 0, [], []
    chosen = [r for r in records if r['split'] == split or (split == 'train' and r['split'] == 'restval')]
    counts = Counter(name_key(listed_names(record)[0]) for record in chosen)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f'{source}: {len(repeated)} {split} images are listed more than once, such as {shorten(repeated[0])} '
            f'{counts[repeated[0]]} times; expected one record an image, with all its captions. `python '
            f'tools/dataset_converters/convert_captions.py {source} --out DATASET.json` puts them together'
        )
    for record in chosen:
        sentences = [s for s in record['sentences'] if caption_words(s['raw'])]
        blank += len(record['sentences']) - len(sentences)
        if sentences:
            kept.append({**record, 'sentences': sentences, 'sentids': [s.get('sentid') for s in sentences]})
        else:
            dropped.append(record['filename'])
    if dropped and split != 'train':
        raise ValueError(
            f'{source}: {len(dropped)} {split} images have no caption that holds a word: '
            f'{clip(", ".join(dropped[:10]))}; evaluation would no longer be on the published split'
        )
    if not kept:
        splits = sorted({record['split'] for record in records})
        raise ValueError(f'{source} holds no image of split {split!r}; its splits are {splits}. {HOW_TO_GET_DATA}')
    return CleanRecords(kept, blank, dropped)


def draw_val(records: list[dict], fraction: float, seed: int) -> int:
    """Move a seeded random ``fraction`` of the training images to split 'val', in place; returns how many.

    Raises:
        ValueError: when ``fraction`` is not between 0 and 1, or would leave train or val without an image.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'the fraction of training images for val must lie between 0 and 1, got {fraction}')
    train = sorted((r for r in records if r['split'] == 'train'), key=lambda r: r['filename'])
    if not 0 < round(fraction * len(train)) < len(train):
        raise ValueError(f'a fraction of {fraction} of {len(train)} training images leaves train or val empty')
    chosen = random.Random(seed).sample(train, round(fraction * len(train)))
    for record in chosen:
        record['split'] = 'val'
    return len(chosen)
