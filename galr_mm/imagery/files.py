"""Image files of a folder or of a data set."""

from __future__ import annotations

from pathlib import Path

from galr_mm.messages import clip, reason
from galr_mm.utils.io import missing_files, read_json

SUFFIXES = {'.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.webp'}


def list_images(source: str | Path, img_root: str | Path | None = None) -> tuple[Path, list[str]]:
    """Folder and file names of the images of a folder, of a Karpathy-style json or of a COCO json, in a fixed order.

    Args:
        source: the folder, searched with its sub-folders, or the json.
        img_root: folder of the images of a json; by default ``images`` beside it.

    Raises:
        FileNotFoundError: when ``source`` or a listed image is missing.
        ValueError: when there is no image, or the json is of neither kind.
    """
    source = Path(source)
    if source.is_dir():
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob('*') if p.suffix.lower() in SUFFIXES)
        if not names:
            raise ValueError(f'no images ({", ".join(sorted(SUFFIXES))}) in {source}')
        return source, names
    if not source.is_file():
        raise FileNotFoundError(f'{source} is neither a folder nor a file')
    content = read_json(source, 'a Karpathy-style or COCO json')
    try:
        images = content['images']
        names = list(dict.fromkeys(image.get('filename') or image['file_name'] for image in images))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{source} is neither a Karpathy-style nor a COCO json: {reason(error)}') from error
    if not names:
        raise ValueError(f'{source} lists no images')
    root = Path(img_root) if img_root else source.parent / 'images'
    missing = missing_files(names, str(root))
    if missing:
        raise FileNotFoundError(f'{len(missing)} images of {source} are not in {root}, such as {clip(missing[0])}')
    return root, names
