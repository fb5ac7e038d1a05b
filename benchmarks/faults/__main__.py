"""Run the fault campaign: ``python -m benchmarks.faults [--part kills disk ...] [--seed 0] [--out faults.json]``.

Needs Linux and the extra galr_mm[detect]; no data: it makes what it needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import inputs, kills, places, processes
from benchmarks.faults.scenarios import Scenarios
from benchmarks.faults.workplace import Workplace

PARTS = ('kills', 'processes', 'inputs', 'disk', 'readonly')
ROUNDS = dict(kills=50, disk=13, readonly=13, processes=6)  # and all inputs


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts, print their tables and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--part', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--rounds', type=int, help=f'of each part (default: {ROUNDS}, all inputs)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments and of how full the disk is')
    parser.add_argument('--out', type=Path, default=Path('faults.json'), help='json with every run')
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f'--rounds is {args.rounds}, expected 1 or more')
    record: dict[str, Any] = dict(seed=args.seed)
    with tempfile.TemporaryDirectory(prefix='galr_faults_') as folder:
        scenarios = Scenarios(Workplace(Path(folder)))
        for part in (part for part in PARTS if part in args.part):  # those that mount come last
            started = time.monotonic()
            rounds = args.rounds or ROUNDS.get(part)
            rows, skipped, table = run(part, scenarios, rounds, args.seed)
            minutes = round((time.monotonic() - started) / 60, 1)
            record[part] = dict(rows=rows, skipped=skipped, minutes=minutes)
            print(f'\n## {part}\n\n{skipped or table}\n', flush=True)
            args.out.write_text(json.dumps(record, indent=1) + '\n')
    failed = sum(bool(row['problems']) for part in args.part for row in record[part]['rows'])
    print(f'{failed} of {sum(len(record[part]["rows"]) for part in args.part)} runs failed; all are in {args.out}')
    raise SystemExit(bool(failed))


def run(part: str, scenarios: Scenarios, rounds: int | None, seed: int) -> tuple[list[dict[str, Any]], str, str]:
    """Rows of a part, why it was skipped, and its table."""
    if part == 'inputs':
        rows = inputs.campaign(scenarios, rounds, log)
        return rows, '', inputs.table(rows)
    assert rounds is not None
    if part == 'kills':
        rows = kills.campaign(scenarios, rounds, seed, log)
        return rows, '', kills.table(rows)
    if part == 'processes':
        rows = processes.campaign(scenarios, rounds, log)
        return rows, '', processes.table(rows)
    rows, skipped = places.campaign(scenarios, part, rounds, seed, log)
    return rows, skipped, places.table(rows)


def log(line: str) -> None:
    """Say how it goes."""
    print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
