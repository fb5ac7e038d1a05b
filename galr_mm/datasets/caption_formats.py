"""Caption lists as others publish them, read as Karpathy records.

Tables and lists of images are entries by column or key; COCO captions and the json of NWPU-Captions become such.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from galr_mm.datasets.captions import (
    BY_IMAGE,
    BY_SPLIT,
    COCO,
    KIND_OF_SUFFIX,
    LINES,
    NWPU,
    ROWS,
    SPLIT_WORDS,
    SPLITS,
    SURROGATE,
    TABLE,
    json_kind,
    load_karpathy,
    read_lines,
    read_precomp,
)
from galr_mm.imagery.files import listed_names, name_key
from galr_mm.messages import shorten
from galr_mm.utils.io import check_columns, read_json, read_rows

IMAGE_KEYS = (
    'filename',
    'file_name',
    'image',
    'image_name',
    'image_path',
    'img_path',
    'filepath',
    'file',
    'path',
    'img',
)
CAPTION_KEYS = (
    'caption',
    'sentence',
    'raw',
    'text',
    'comment',
    'description',
    'title',
)  # also captions, caption_1, ...


class Entry(NamedTuple):
    """What a list says of an image, or of one of its captions; ``split`` is None where it does not say."""

    name: str
    captions: list[str]
    split: str | None


def read_captions(sources: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Records of caption lists of any kind this package knows, one an image.

    Args:
        sources: folders of released lists, Karpathy-style jsons, COCO captions, the json of NWPU-Captions, lists of
            images with captions (json, also by split, or jsonl with one a line), jsons of captions by image, and tables
            (csv, tsv, txt). ``train=FILE`` says the
            split of a list that has none; without it a word in the file's name does (``rsicd_train.json``).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a list is of no such kind, or an image is in two splits or has none; names the place.
    """
    records: dict[str, dict[str, Any]] = {}
    for source in sources:
        split, path = split_and_path(source)
        if not path.exists():
            raise FileNotFoundError(f'no caption list at {path}')
        for record in _read(path, split):
            name = listed_names(record)[0]
            if SURROGATE.search(name):
                raise ValueError(f'{path}: the image name {shorten(name)} holds half a character')
            first = records.setdefault(name_key(name), record)
            if SPLIT_WORDS[first['split']] != SPLIT_WORDS[record['split']]:
                raise ValueError(f'{path}: {name} is in the splits {first["split"]} and {record["split"]}')
            if first is not record:
                image = {key: first[key] for key in ('imgid',) if key in first}
                first['sentences'] += [sentence | image for sentence in record['sentences']]
    return list(records.values())


def split_and_path(source: str | Path) -> tuple[str | None, Path]:
    """What ``train=FILE`` says, or a file alone.

    >>> split_and_path('train=a.csv')[0], split_and_path('a=b.csv')[0]
    ('train', None)
    """
    word, equals, rest = str(source).partition('=')
    return (word, Path(rest)) if equals and word in SPLITS else (None, Path(source))


def _read(path: Path, split: str | None) -> list[dict[str, Any]]:
    kind = None if path.is_dir() else KIND_OF_SUFFIX.get(path.suffix.lower())
    if kind == TABLE:
        return _records(_table(path), path, split)
    if kind == LINES:
        lines = [line for line in read_lines(path) if line.strip()]
        return _records(_entries(map(_json_line, lines), f'{path} line'), path, split)
    content: Any = None if path.is_dir() else read_json(path, 'a json of captions')
    kind = json_kind(content)
    if kind == COCO:
        return _records(_coco(content, path), path, split)
    if kind == NWPU:
        return _records(_nwpu(content, path), path, split)
    if kind == ROWS:
        return _records(_entries(content, f'{path} entry'), path, split)
    if kind == BY_SPLIT:
        return _records(_by_split(content, path), path, split)
    if kind == BY_IMAGE:
        rows = (dict(image=name, captions=captions) for name, captions in content.items())
        return _records(_entries(rows, f'{path} entry'), path, split)
    if split is not None:
        raise ValueError(f'{split}={path}: this list has splits of its own; leave {split}= out')
    return read_precomp(path) if path.is_dir() else load_karpathy(path)


def _records(entries: Iterable[Entry], path: Path, split: str | None) -> list[dict[str, Any]]:
    """Entries of one image together, in the order in which the images come."""
    default = split or _split_of_name(path)
    records: dict[str, dict[str, Any]] = {}
    for name, captions, own in entries:
        where = own or default
        if where is None:
            raise ValueError(
                f'{path} does not say the split of {name}: add an entry or column split ({", ".join(SPLITS)}), or give '
                f'the lists as train={path.name} val=... test=...'
            )
        folder, base = posixpath.split(name)
        record = records.setdefault(name, dict(filename=base, split=where, sentences=[]))
        if folder:
            record['filepath'] = folder
        other = next((x for x in (split, record['split']) if x not in (None, where)), None)
        if other:
            raise ValueError(f'{path}: {name} is in the splits {other} and {where}')
        record['sentences'] += [dict(raw=caption.strip()) for caption in captions]
    if not records:
        raise ValueError(f'{path} lists no images')
    return list(records.values())


def _split_of_name(path: Path) -> str | None:
    found = {SPLIT_WORDS[word] for word in re.findall('[a-z]+', path.stem.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def _entry(fields: Mapping[str, Any], where: str) -> Entry:
    """An image by the first known key of each kind; captions may be a string, a list, or in numbered keys."""
    keys = sorted(str(key).lower() for key in fields)
    twice = next((key for key, other in pairwise(keys) if key == other), None)
    if twice is not None:
        raise ValueError(f'{where} has more than one {twice!r}, in upper and lower case')
    fields = {str(key).lower(): value for key, value in fields.items()}
    name = next((fields[key] for key in IMAGE_KEYS if fields.get(key)), None)
    known = next(filter(None, ([key for key in fields if _is_numbered(key, word)] for word in CAPTION_KEYS)), [])
    texts = [text for key in known for text in (fields[key] if isinstance(fields[key], list) else [fields[key]])]
    texts = [text.get('raw') if isinstance(text, Mapping) else text for text in texts]
    if not isinstance(name, str) or not known or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f'{where} is {shorten(fields)}, expected an image ({", ".join(IMAGE_KEYS)}) and its caption or '
            f'captions ({", ".join(CAPTION_KEYS)}), as text'
        )
    broken = next(filter(SURROGATE.search, texts), None)
    if broken is not None:
        raise ValueError(f'{where} ({shorten(name)}) has the caption {shorten(broken)}, which holds half a character')
    split = fields.get('split') or None
    if split is not None and str(split).lower() not in SPLIT_WORDS:
        raise ValueError(f'{where} ({name}) has the split {split!r}, expected one of {", ".join(SPLIT_WORDS)}')
    return Entry(name.strip(), texts, None if split is None else SPLIT_WORDS[str(split).lower()])


@cache
def _is_numbered(key: str, word: str) -> bool:
    return re.fullmatch(rf'{word}s?[ _-]?\d*', key) is not None


def _entries(content: Iterable[Any], where: str) -> Iterator[Entry]:
    for number, fields in enumerate(content, start=1):
        if not isinstance(fields, Mapping):
            raise ValueError(
                f'{where} {number} is {shorten(fields)}, expected an object with an image and its captions'
            )
        yield _entry(fields, f'{where} {number}')


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line  # which is not an object: the error names the line


def _table(path: Path) -> Iterator[Entry]:
    lines = read_lines(path)
    separator = max('\t,;|', key=lines[0].count) if lines else ','
    rows = read_rows(lines, path, separator, skip_space=True)
    columns = [column.strip().lower() for column in next(rows, (0, []))[1]]
    if not any(key in columns for key in IMAGE_KEYS) or not any(
        _is_numbered(column, word) for column in columns for word in CAPTION_KEYS
    ):
        raise ValueError(
            f'{path} begins with {shorten(columns)}, expected a line that names the columns: an image '
            f'({", ".join(IMAGE_KEYS)}), a caption ({", ".join(CAPTION_KEYS)}) and, if there is one, the split'
        )
    check_columns(columns, path)
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        where = f'{path} line {number}'
        if len(cells) != len(columns):
            raise ValueError(
                f'{where} has {len(cells)} cells, expected {len(columns)} ({", ".join(columns)}); a caption that holds '
                f'{separator!r} stands in double quotes'
            )
        named = zip(columns, (cell.strip() for cell in cells), strict=True)
        yield _entry({column: cell for column, cell in named if column}, where)


def _coco(content: Mapping[str, Any], path: Path) -> Iterator[Entry]:
    captions: dict[Any, list[str]] = {}
    try:
        for annotation in content['annotations']:
            captions.setdefault(annotation['image_id'], []).append(annotation['caption'])
        ids = Counter(image['id'] for image in content['images'])
        fields = [{**image, 'caption': captions.pop(image['id'], [])} for image in content['images']]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is not {COCO} with images (id, file_name) and annotations (image_id, caption): {error!r}'
        ) from error
    twice = next((name for name, count in ids.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f'{path}: more than one image has the id {twice!r}, so whose captions are whose is not known')
    if captions:
        raise ValueError(f'{path}: image_id {next(iter(captions))!r} of a caption is not the id of an image')
    return _entries(fields, f'{path} image')


def _by_split(content: Mapping[str, list[Any]], path: Path) -> Iterator[Entry]:
    for word, rows in content.items():
        for entry in _entries(rows, f'{path} {word}'):
            split = SPLIT_WORDS[word.lower()]
            if entry.split not in (None, split):
                raise ValueError(f'{path}: {entry.name} is in the splits {split} and {entry.split}')
            yield entry._replace(split=split)


def _nwpu(content: Mapping[str, list[Any]], path: Path) -> Iterator[Entry]:
    """Classes with their images, whose files lie in a folder of the class or without it."""
    for name, images in content.items():
        for entry in _entries(images, f'{path} {name}'):
            yield entry._replace(name=posixpath.join(name, entry.name))
