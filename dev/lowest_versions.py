"""Print the lower bounds of setup.cfg as pins, for an environment of the oldest versions that are said to work."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / 'setup.cfg'


def lowest(requirements: str) -> list[str]:
    """``name>=1.2`` -> ``name==1.2``; a requirement without a bound is left out."""
    found = (re.match(r'([\w.-]+)(?:\[[^\]]*\])?\s*>=\s*([\w.]+)', line) for line in requirements.splitlines())
    return [f'{match[1]}=={match[2]}' for match in found if match]


if __name__ == '__main__':
    config = configparser.ConfigParser()
    config.read(SETUP)
    print('\n'.join(lowest(config['options']['install_requires']) + lowest(config['options.extras_require']['test'])))
