"""SIGKILL at random moments: what is started again ends as what was left alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults.scenarios import Scenarios, contents, differences, is_log, unreadable

KILLED = (
    'training',
    'resumed training',
    'extraction of proposals',
    'conversion of captions',
    'conversion of detections',
    'vocabulary',
    'feature cache',
)


def campaign(scenarios: Scenarios, rounds: int, seed: int, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Kill so many times, each scenario in turn. Gives a dict a kill; ``problems`` is empty where all is well."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        name = KILLED[number % len(KILLED)]
        length, expected = scenarios.undisturbed(name)
        folder = scenarios.place.folder / 'kills' / name.replace(' ', '_')
        while True:
            scenarios.renew(name, folder)
            moment = float(rng.uniform(0, length))
            if scenarios.start(name, folder, moment).code == -signal.SIGKILL:
                break  # else it was faster than undisturbed: another moment
        problems = list(unreadable(folder))
        left = sorted(path.name for path in folder.rglob('*') if path.is_file() and not is_log(path, folder))
        done = scenarios.start(name, folder)
        if done.code:
            problems.append(f'started again: exit code {done.code}, {done.last_line}')
        else:
            problems += differences(expected, contents(folder))
        rows.append(
            dict(what=name, length=round(length, 2), killed_after=round(moment, 3), left=left, problems=problems)
        )
        log(f'{number + 1}/{rounds} {name}, killed after {moment:.2f} of {length:.2f} s: {problems or "equal"}')
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each scenario."""
    lines = ['| what | length, s | kills | moments, s | equal afterwards |', '| --- | --- | --- | --- | --- |']
    for name in dict.fromkeys(row['what'] for row in rows):
        of = [row for row in rows if row['what'] == name]
        moments = sorted(row['killed_after'] for row in of)
        equal = sum(not row['problems'] for row in of)
        lines.append(
            f'| {name} | {of[0]["length"]:.1f} | {len(of)} | {moments[0]:.1f} to {moments[-1]:.1f} '
            f'| {equal} of {len(of)} |'
        )
    return '\n'.join(lines)
