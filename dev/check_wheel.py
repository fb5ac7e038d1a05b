"""Start every console script of the installed wheel with ``--help``, and look for what a wheel must hold."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Exit with a message at the first thing that is missing."""
    wheel = distribution('galr_mm')
    package = Path(str(wheel.locate_file('galr_mm')))
    if Path(sys.prefix) not in package.parents:
        sys.exit(f'galr_mm is not the installed wheel: {package}')
    mim = ('.mim/model-index.yml', '.mim/configs/galr_ucm.py', '.mim/tools/train.py')
    for name in ('py.typed', 'serve/static/index.html', 'serve/static/leaflet/leaflet.js', *mim):
        if not (package / name).is_file():
            sys.exit(f'the wheel lacks galr_mm/{name}')
    scripts = [entry.name for entry in wheel.entry_points if entry.group == 'console_scripts']
    if not scripts:
        sys.exit('the wheel has no console scripts')
    for name in scripts:
        done = subprocess.run([Path(sys.executable).with_name(name), '--help'], capture_output=True, text=True)
        if done.returncode or 'usage' not in done.stdout.lower():
            sys.exit(f'{name} --help fails:\n{done.stdout}{done.stderr}')
        print(f'{name}: works')
    subprocess.run([sys.executable, '-m', 'galr_mm.cli.collect_env'], check=True)


if __name__ == '__main__':
    main()
