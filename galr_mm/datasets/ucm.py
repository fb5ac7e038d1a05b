"""The classes of UC Merced Land Use, which UCM-captions took over without naming them."""

from __future__ import annotations

from pathlib import Path

# images 1 to 100 are of the first, 101 to 200 of the second, and so on
CLASSES = (
    'agricultural', 'airplane', 'baseballdiamond', 'beach', 'buildings', 'chaparral', 'denseresidential', 'forest',
    'freeway', 'golfcourse', 'harbor', 'intersection', 'mediumresidential', 'mobilehomepark', 'overpass', 'parkinglot',
    'river', 'runway', 'sparseresidential', 'storagetanks', 'tenniscourt',
)  # fmt: skip


def class_of(file_name: str) -> str:
    """The class of an image of UCM-captions, whose files are ``1.tif`` to ``2100.tif`` (or of another type).

    Raises:
        ValueError: when the name is another.

    >>> class_of('100.jpg'), class_of('101.jpg'), class_of('2100.jpg')
    ('agricultural', 'airplane', 'tenniscourt')
    """
    stem = Path(file_name).stem
    if not stem.isdigit() or not 1 <= int(stem) <= 100 * len(CLASSES):
        raise ValueError(f'{file_name!r} is not an image of UCM-captions, 1 to 2100')
    return CLASSES[(int(stem) - 1) // 100]
