"""Which files are images, which of them a folder holds, and which one a list means."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from galr_mm.messages import first_of, reason
from galr_mm.utils.io import read_json

HOW_TO_GET_DATA = 'docs/datasets.md says where each data set comes from and how its folder is laid out'
SUFFIXES = {'.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.webp'}
LISTED_SUFFIXES = SUFFIXES | {'.gif', '.jp2', '.pgm', '.ppm'}  # lists name originals of which other types are passed on
NOT_OURS = {'__MACOSX', '@eaDir'}  # what archives of macOS and network drives add


def name_key(name: str) -> str:
    """Equal for names of one file: without detours such as ``./``, in one Unicode form.

    >>> name_key('./Zu\u0308rich//1.jpg') == name_key('Z\u00fcrich/1.jpg')
    True
    """
    return unicodedata.normalize('NFC', posixpath.normpath(name))


def loose_key(name: str) -> str:
    r"""Equal for names that may mean one file: :func:`slash_key` without the file type.

    >>> loose_key('sub\\1.v2.tif') == loose_key('sub/1.v2.JPG') == loose_key('sub/1.v2')
    True
    """
    return _stem(slash_key(name))


def slash_key(name: str) -> str:
    """:func:`name_key` of a name whose folders may be written as Windows does."""
    return name_key(name.replace('\\', '/'))


def listed_names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that an entry of a Karpathy-style or COCO json has for its image, the likelier first.

    Karpathy's own files have the folder in a field of its own; many keep the images without these folders.

    Raises:
        KeyError, TypeError: when there is none, or it is not a string.

    >>> listed_names(dict(filepath='val2014', filename='1.jpg')), listed_names(dict(file_name='a/1.jpg'))
    (('val2014/1.jpg', '1.jpg'), ('a/1.jpg',))
    """
    name, folder = entry.get('filename') or entry['file_name'], entry.get('filepath') or ''
    if not isinstance(name, str) or not isinstance(folder, str):
        raise TypeError(f'the name of an image is {name!r} and its filepath {folder!r}, expected strings')
    return (posixpath.join(folder, name), name) if folder else (name,)


class ImageFolder:
    r"""The image files of a folder and its sub-folders; symbolic links are followed.

    A list and a disk may write a name in different ways: with another file type (``1.tif`` for ``1.jpg`` or ``1.JPG``)
    or none (``S2.v1`` for ``S2.v1.jpg``), in another Unicode form, or as Windows does (``sub\1.jpg``). A file of
    exactly the listed name comes first.

    Args:
        root: the folder. A sub-folder is read once, when it is first needed.

    Raises:
        FileNotFoundError: when there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)
        if not os.path.isdir(self.root):
            raise FileNotFoundError(f'no image folder at {self.root}. {HOW_TO_GET_DATA}')
        self._folders: dict[str, _Entries] = {}

    def names(self) -> list[str]:
        """Names of the images, with their sub-folders, sorted. Hidden files and folders are not ours."""
        return sorted(self._walk('', frozenset()))

    def _walk(self, folder: str, above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(os.path.join(self.root, folder))
        if real in above:
            return  # a link to a folder that holds it
        entries = self._read(folder)
        yield from (posixpath.join(folder, name) for name in entries.files if _is_image(name))
        for name in entries.folders:
            if not name.startswith('.') and name not in NOT_OURS:
                yield from self._walk(posixpath.join(folder, name), above | {real})

    def find(self, *names: str) -> str | None:
        """The name that a listed image has in the folder, None where it is not there; the first of its names counts.

        Raises:
            ValueError: when more than one file could be it.
        """
        return next(filter(None, map(self._find, names)), None)

    def _find(self, name: str) -> str | None:
        parent, base = posixpath.split(posixpath.normpath(name))
        folder = self._find_folder(parent)
        found: list[str] = []
        if folder is not None:
            entries, key = self._read(folder), name_key(base)
            found = [base] if base in entries.files else entries.by_key.get(key) or entries.by_stem.get(_stem(key), [])
        if len(found) > 1:
            raise ValueError(f'{name} is not in {self.root}, and {", ".join(found)} could each be it')
        if folder is not None and found:
            return posixpath.join(folder, found[0])
        return self._find(name.replace('\\', '/')) if '\\' in name else None

    def locate(self, listed: Sequence[Sequence[str]], what: str = 'listed images') -> list[str]:
        """The names of listed images in the folder.

        Args:
            listed: of each image its names, :func:`listed_names`.
            what: the images, for errors.

        Raises:
            FileNotFoundError: when images are missing; names the first of them.
            ValueError: when more than one file could be an image, or one file is two images.
        """
        found = [self.find(*names) for names in listed]
        missing = [names[0] for names, name in zip(listed, found, strict=True) if name is None]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(listed)} {what} are not in {self.root} under any file type: '
                f'{first_of(missing)}. {HOW_TO_GET_DATA}'
            )
        located = [name for name in found if name is not None]
        owners: dict[str, str] = {}
        for names, name in zip(listed, located, strict=True):
            if name in owners:
                raise ValueError(
                    f'{name} in {self.root} is the file of more than one of the {what}, {owners[name]}, {names[0]}'
                )
            owners[name] = names[0]
        return located

    def _find_folder(self, name: str) -> str | None:
        if os.path.isdir(os.path.join(self.root, name)):
            return name
        parent, base = posixpath.split(name)
        folder = self._find_folder(parent) if base else None
        if folder is None:
            return None
        same = (other for other in self._read(folder).folders if name_key(other) == name_key(base))
        return next((posixpath.join(folder, other) for other in same), None)

    def _read(self, folder: str) -> _Entries:
        if folder not in self._folders:
            entries = _Entries({}, [], {}, {})
            with os.scandir(os.path.join(self.root, folder)) as found:
                for entry in sorted(found, key=lambda entry: entry.name):
                    try:
                        is_folder, is_file = entry.is_dir(), entry.is_file()
                    except OSError:  # a link to itself: it is listed, and who opens it is told so
                        is_folder, is_file = False, True
                    if is_folder:
                        entries.folders.append(entry.name)
                    elif is_file:  # not a link to nothing
                        entries.files[entry.name] = None
                        key = name_key(entry.name)
                        entries.by_key.setdefault(key, []).append(entry.name)
                        if _is_image(entry.name):
                            entries.by_stem.setdefault(_stem(key), []).append(entry.name)
            self._folders[folder] = entries
        return self._folders[folder]


class _Entries(NamedTuple):
    """What lies in one folder."""

    files: dict[str, None]
    folders: list[str]
    by_key: dict[str, list[str]]
    by_stem: dict[str, list[str]]


def _is_image(name: str) -> bool:
    return not name.startswith('.') and os.path.splitext(name)[1].lower() in SUFFIXES


def _stem(name: str) -> str:
    """Without its file type; what stands behind another dot belongs to the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in LISTED_SUFFIXES else name


def list_images(source: str | Path, img_root: str | Path | None = None) -> tuple[Path, list[str]]:
    """Folder and file names of the images of a folder, of a Karpathy-style json or of a COCO json, in a fixed order.

    Args:
        source: the folder, searched with its sub-folders, or the json.
        img_root: folder of the images of a json; by default ``images`` beside it.

    Raises:
        FileNotFoundError: when ``source`` or a listed image is missing.
        ValueError: when there is no image, the json is of neither kind, or more than one file could be an image.
    """
    source = Path(source)
    if source.is_dir():
        names = ImageFolder(source).names()
        if not names:
            raise ValueError(f'no images ({", ".join(sorted(SUFFIXES))}) in {source}')
        return source, names
    if not source.is_file():
        raise FileNotFoundError(f'{source} is neither a folder nor a file')
    content = read_json(source, 'a Karpathy-style or COCO json')
    try:
        listed = list(dict.fromkeys(map(listed_names, content['images'])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{source} is neither a Karpathy-style nor a COCO json: {reason(error)}. Others become one with '
            f'`python tools/dataset_converters/convert_captions.py {source} --out dataset.json`'
        ) from error
    if not listed:
        raise ValueError(f'{source} lists no images')
    root = Path(img_root) if img_root else source.parent / 'images'
    return root, ImageFolder(root).locate(listed, f'images of {source}')
