"""A test over several processes gives what one gives, also where images do not divide evenly."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.scenarios import Scenarios

IMAGES, PROCESSES = (7, 5, 2), (2, 3)  # two images on three processes: one has padding alone
RERANK = 'rerank=[mr,qbnorm,csls,dsl]'
TOLERANCE = 1e-5  # batches hold other images, which moves the last digits of a feature


def campaign(scenarios: Scenarios, rounds: int, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Compare so many tests with those of one process. Gives a dict each; ``problems`` is empty where all is well."""
    place, checkpoint = scenarios.place, scenarios.checkpoint()
    rows = []

    def test(images: int, processes: int) -> Path:
        folder = place.folder / 'processes' / f'{images}_{processes}'
        if not folder.is_dir():
            options = [RERANK, f'test_dataloader.dataset.indices={images}', 'test_dataloader.batch_size=2']
            words = [place.config, checkpoint, '--work-dir', folder, '--out', folder / 'scores.npz']
            words += ['--launcher', 'pytorch'] if processes > 1 else []
            port = free_port()
            place.must('test', *words, '--cfg-options', *options, first=lambda: be_processes(processes, port))
        return folder

    for images, processes in list(product(IMAGES, PROCESSES))[:rounds]:
        one, several = test(images, 1), test(images, processes)
        problems, difference = compare(one, several)
        rows.append(dict(what=f'{images} images', processes=processes, difference=difference, problems=problems))
        log(f'{images} images on {processes} processes: {problems or f"equal, scores within {difference:.1g}"}')
    return rows


def be_processes(count: int, port: str) -> None:
    """Be one of so many processes from here on, as torchrun starts them."""
    if count == 1:
        return
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(RANK='0', LOCAL_RANK='0')
    for rank in range(1, count):
        if not os.fork():
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            return


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def compare(one: Path, several: Path) -> tuple[list[str], float]:
    """What differs between the metrics and scores in two folders, and the largest difference of a score."""
    problems = []
    first, second = metrics(one), metrics(several)
    if not first or first != second:
        problems.append(f'metrics differ: {first} and {second}')
    largest = 0.0
    with np.load(one / 'scores.npz') as a, np.load(several / 'scores.npz') as b:
        if a.files != b.files:
            problems.append(f'arrays differ: {a.files} and {b.files}')
        for name in a.files if a.files == b.files else []:
            if a[name].shape != b[name].shape or a[name].dtype.kind != 'f':
                if not np.array_equal(a[name], b[name]):
                    problems.append(f'{name} differs')
                continue
            scale = max(1.0, float(np.abs(a[name]).max()))
            largest = max(largest, float(np.abs(a[name] - b[name]).max()) / scale)
    if largest > TOLERANCE:
        problems.append(f'scores differ by {largest:.2g}')
    return problems, largest


def metrics(folder: Path) -> dict[str, float]:
    """The recalls that a test logged."""
    (path,) = folder.glob('*/*.json')
    return {name: value for name, value in json.loads(path.read_text()).items() if 'R' in name}


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each comparison."""
    lines = ['| images | processes | metrics and re-ranked scores | largest difference of a score |']
    lines += ['| --- | --- | --- | --- |']
    for row in rows:
        equal = 'differ' if row['problems'] else 'equal'
        lines.append(f'| {row["what"]} | {row["processes"]} | {equal} | {row["difference"]:.1g} |')
    return '\n'.join(lines)
