"""What a training left in its work directory: the course of val mR, the selected checkpoint, minutes."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def learning_curve(work: Path) -> list[dict[str, float]]:
    """Val mR and mean training loss by epoch, from mmengine's logs; of an epoch that was repeated the last counts."""
    losses: dict[int, dict[int, float]] = {}
    recalls: dict[int, float] = {}
    for line in log_lines(work):
        entry = json.loads(line)
        if 'mR' in entry:
            recalls[entry['step']] = entry['mR']
        elif 'loss' in entry and 'epoch' in entry:
            losses.setdefault(entry['epoch'], {})[entry['step']] = entry['loss']
    means = {epoch: sum(steps.values()) / len(steps) for epoch, steps in losses.items()}
    return [
        {'epoch': epoch, 'mR': mR, **({'loss': means[epoch]} if epoch in means else {})}
        for epoch, mR in sorted(recalls.items())
    ]


def best_checkpoint(work: Path, curve: Sequence[Mapping[str, float]]) -> tuple[int, Path]:
    """Epoch and file of the highest mR on val, the first of equal ones: nothing else has a part in the selection.

    A training that was stopped may have left two files; mmengine's own note of the best one is of before the stop.

    Raises:
        FileNotFoundError: when none is there.
    """
    recalls = {int(point['epoch']): point['mR'] for point in curve}
    whole = [path for path in work.glob('best_mR_*.pth') if zipfile.is_zipfile(path)]  # its directory is written last
    files = {int(path.stem.rsplit('_', 1)[1]): path for path in whole}
    known = sorted(recalls.keys() & files.keys())
    if not known:
        raise FileNotFoundError(
            f'{work} has no whole best_mR_*.pth whose val mR is in its logs; remove it and train again'
        )
    epoch = max(known, key=lambda step: recalls[step])  # the first of equal ones
    return epoch, files[epoch]


def wall_minutes(work: Path) -> float:
    """Minutes of training, over all its starts: from the name of each log's folder to the log's last line."""
    total = 0.0
    for log in work.glob('*/*.log'):
        if re.fullmatch(r'\d{8}_\d{6}', log.stem):
            total += log.stat().st_mtime - time.mktime(time.strptime(log.stem, '%Y%m%d_%H%M%S'))
    return total / 60


def log_lines(work: Path) -> list[str]:
    """What mmengine logged of all starts of a training, a json a line; one that was killed may end in half a line."""
    files = sorted(work.glob('*/vis_data/scalars.json'))
    whole = [path.read_text(encoding='utf-8').rpartition('\n')[0] for path in files]
    return [line for text in whole for line in text.splitlines() if line]
