"""Bad inputs of every command: each ends with an exit code and one line that says what is wrong, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.faults.bad_archives import BadArchives
from benchmarks.faults.bad_files import BadFiles
from benchmarks.faults.bad_words import BadWords
from benchmarks.faults.scenarios import Scenarios
from benchmarks.faults.workplace import Done

LONGEST = 2000  # characters of a message


def complaints(done: Done, names: tuple[str, ...]) -> list[str]:
    """What is wrong with how a tool ended."""
    found = []
    if done.code <= 0:
        found.append(f'exit code {done.code}')
    if 'Traceback' in done.text:
        found.append('a traceback')
    said = done.last_line if 'PROBLEM' not in done.text else done.text  # verify_dataset lists them all
    if not any(name and name in said for name in names):
        found.append(f'the last line names none of {names}')
    if len(done.last_line) > LONGEST:
        found.append(f'{len(done.last_line)} characters')
    return found


def campaign(scenarios: Scenarios, rounds: int | None, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the cases, or so many of them, evenly spread. Gives a dict each; ``problems`` is empty where all is well."""
    place, folder = scenarios.place, scenarios.place.folder / 'inputs'
    cases = [*BadFiles(scenarios, folder), *BadWords(scenarios, folder), *BadArchives(scenarios, folder)]
    if rounds is not None and rounds < len(cases):
        cases = [cases[index] for index in np.linspace(0, len(cases) - 1, rounds).astype(int)]
    rows = []
    for number, case in enumerate(cases, start=1):
        done = place.run(case.tool, *case.words)
        problems = complaints(done, case.names)
        command = ' '.join([case.tool, *map(str, case.words)])
        rows.append(dict(kind=case.kind, tool=case.tool, command=command, message=done.last_line, problems=problems))
        if problems:
            log(f'{number}/{len(cases)} {command}\n    {problems}: {done.last_line[:300]}')
        elif number % 50 == 0:
            log(f'{number}/{len(cases)} inputs')
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each command."""
    lines = ['| command | inputs | kinds | a clear end |', '| --- | --- | --- | --- |']
    for tool in sorted({row['tool'] for row in rows}):
        of = [row for row in rows if row['tool'] == tool]
        kinds = len({row['kind'] for row in of})
        lines.append(f'| `{tool}` | {len(of)} | {kinds} | {sum(not row["problems"] for row in of)} |')
    clear = sum(not row['problems'] for row in rows)
    return '\n'.join([*lines, f'| all | {len(rows)} | {len({row["kind"] for row in rows})} | {clear} |'])
