"""The fault campaign runs, with few rounds of each part; docs/faults.md has the whole one."""

import json
import os

import pytest

from tests.helpers import run_tool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.detect,
    pytest.mark.skipif(
        not hasattr(os, 'pidfd_open'), reason='needs Linux: it waits for processes by their descriptors'
    ),
]


@pytest.mark.parametrize(
    ('part', 'rounds'), [('kills', 7), ('processes', 2), ('inputs', 40), ('disk', 6), ('readonly', 6)]
)
def test_part(part, rounds, tmp_path):
    out = tmp_path / 'faults.json'
    done = run_tool('-m', 'benchmarks.faults', '--part', part, '--rounds', rounds, '--seed', 1, '--out', out)
    record = json.loads(out.read_text())
    if record[part]['skipped']:
        pytest.skip(record[part]['skipped'])
    assert len(record[part]['rows']) == rounds
    assert f'0 of {rounds} runs failed' in done.stdout
    assert done.stdout.count('\n| ') > 2  # a table
