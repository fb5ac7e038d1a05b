"""Steps a second beside other work, by how long idle OpenMP threads spin: ``python benchmarks/bench_busy.py``.

Each value of GOMP_SPINCOUNT ('default' leaves it out) trains a small convolutional network in a process of its own,
once alone and once beside a competitor, a second process that does the same with the library's own setting on the same
cores. Values take turns, ``--rounds`` times; medians and ratios to 'default' are printed as a markdown table. A good
value costs little alone and gains much beside others; ``galr_mm/utils/start.py`` holds the one in use.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

STEPS = """
import sys, time, torch
from torch import nn
torch.manual_seed(0)
layers = [nn.Conv2d(3, 32, 3, 2, 1)]
for _ in range(8):  # small tensors: a step is many short parallel regions, as in training at 128 px
    layers += [nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1)]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8))
optimizer = torch.optim.SGD(model.parameters(), 0.01)
images, labels = torch.randn(16, 3, 64, 64), torch.arange(16) % 8
seconds, steps, start = float(sys.argv[1]), 0, None
while start is None or time.perf_counter() - start < seconds:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    steps += 1
    if start is None and steps == 3:
        steps, start = 0, time.perf_counter()
print(steps / (time.perf_counter() - start))
"""


def start(spin: str, seconds: float) -> subprocess.Popen[str]:
    """A process that makes steps for so long and prints how many a second."""
    env = {name: value for name, value in os.environ.items() if name not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    if spin != 'default':
        env['GOMP_SPINCOUNT'] = spin
    return subprocess.Popen([sys.executable, '-c', STEPS, str(seconds)], env=env, stdout=subprocess.PIPE, text=True)


def rate(spin: str, seconds: float, busy: bool) -> float:
    """Steps a second, alone or beside a competitor."""
    other = start('default', seconds + 120) if busy else None
    try:
        return float(start(spin, seconds).communicate()[0])
    finally:
        if other is not None:
            other.kill()
            other.communicate()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--values', nargs='+', default=['default', '0', '1000', '10000', '30000', '100000'])
    parser.add_argument('--seconds', type=float, default=5.0, help='of each measurement')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    values = list(dict.fromkeys(['default', *args.values]))
    rates: dict[tuple[str, bool], list[float]] = {(value, busy): [] for value in values for busy in (False, True)}
    for _ in range(args.rounds):
        for value, busy in rates:
            rates[value, busy].append(rate(value, args.seconds, busy))
    print(f'{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, median of {args.rounds}\n')
    print('| GOMP_SPINCOUNT | alone, steps/s | to default | beside another, steps/s | to default |')
    print('| --- | --- | --- | --- | --- |')
    for value in values:
        cells = []
        for busy in (False, True):
            median = statistics.median(rates[value, busy])
            cells += [f'{median:.2f}', f'{median / statistics.median(rates["default", busy]):.2f}']
        print(f'| {value} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
