"""Fill the virtual environment this script is run from, from the package registry alone.

Run by ``make setup`` as ``.venv/bin/python dev/setup_env.py``. What it does, in order:

1. torch and torchvision as one build: those of constraints.txt, or ``--torch``; what is already there is kept.
2. mmcv with compiled ops for exactly that torch: a wheel from ``$GALR_WHEELHOUSE/torch-<version>/`` or from the
   project's own ``.wheelhouse/torch-<version>/`` if there is one that imports, else a build (about 10 minutes on two
   cores) that is kept in ``.wheelhouse``.
3. everything else, pinned by constraints.txt, and the project itself, editable.

A second run with nothing changed takes about a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = Path(sys.prefix) / 'galr_setup.json'
BUILD_TOOLS = ['setuptools<82', 'wheel', 'packaging', 'ninja', 'psutil']  # mmcv's setup.py imports pkg_resources


def say(text: str) -> None:
    """Print a progress line at once."""
    print(f'[setup] {text}', flush=True)


def pip(*args: str, env: dict[str, str] | None = None, check: bool = True) -> bool:
    """Run pip of this environment; True when it succeeded."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *args]
    done = subprocess.run(command, env={**os.environ, **(env or {})})
    if check and done.returncode:
        sys.exit(f'[setup] failed: {shlex.join(command)}')
    return done.returncode == 0


def installed(name: str) -> str | None:
    """Version of an installed distribution, None when it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_version() -> str | None:
    """Full version of the installed torch with its build tag, such as 2.12.1+cu130; importing it would take seconds."""
    path = Path(sysconfig.get_path('platlib')) / 'torch' / 'version.py'
    found = re.search(r"__version__ = '([^']+)'", path.read_text()) if path.is_file() else None
    return found[1] if found else None


def ops_import() -> bool:
    """Whether mmcv's compiled ops import beside the installed torch."""
    return subprocess.run([sys.executable, '-c', 'import mmcv.ops'], capture_output=True).returncode == 0


def install_torch(spec: str | None, index: str | None, pins: dict[str, str]) -> None:
    """Install torch and torchvision in one command, so that they are one build."""
    if spec is None and installed('torch') and installed('torchvision'):
        say(f'keeping torch {torch_version()} and torchvision {installed("torchvision")}')
        return
    wanted = shlex.split(spec) if spec else [f'torch=={pins["torch"]}', f'torchvision=={pins["torchvision"]}']
    say(f'installing {" ".join(wanted)}')
    pip('install', *wanted, *(['--index-url', index] if index else []))


def install_mmcv(version: str, torch: str, built_for: str | None, constraints: str) -> None:
    """Install mmcv with ops that import beside this torch; build them only where no fitting wheel is found."""
    if installed('onedl-mmcv') == version and built_for == torch and ops_import():
        say(f'keeping mmcv {version} (ops built for torch {torch})')
        return
    own = ROOT / '.wheelhouse' / f'torch-{torch}{"-cuda-ops" if os.environ.get("FORCE_CUDA") == "1" else ""}'
    folders = [own]
    if os.environ.get('GALR_WHEELHOUSE'):
        shared = Path(os.environ['GALR_WHEELHOUSE'])
        folders += [shared / f'torch-{torch}', shared / f'torch-{torch.split("+")[0]}']
    for wheel in (w for folder in folders for w in sorted(folder.glob(f'onedl_mmcv-{version}-*.whl'))):
        if try_wheel(wheel, constraints):
            return
    say(f'compiling the ops of mmcv {version} for torch {torch}; this takes about 10 minutes on two cores')
    pip('install', '-c', constraints, *BUILD_TOOLS)
    with tempfile.TemporaryDirectory() as build:
        # no debug information, symbols stripped at link time: 84 MB -> 4 MB
        env = {
            'MMCV_WITH_OPS': '1',
            # with a GPU in sight mmcv would want nvcc of torch's own CUDA version; CPU ops serve everything here
            **({} if os.environ.get('FORCE_CUDA') == '1' else {'CUDA_VISIBLE_DEVICES': ''}),
            'MAX_JOBS': str(os.cpu_count() or 1),
            'CFLAGS': os.environ.get('CFLAGS', '') + ' -g0',
            'LDFLAGS': os.environ.get('LDFLAGS', '') + ' -Wl,--strip-all',
        }
        # never pip's cache: its key does not know which torch a wheel was built for
        pip('wheel', '--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary', 'onedl-mmcv',
            '--wheel-dir', build, f'onedl-mmcv=={version}', env=env)  # fmt: skip
        (built,) = Path(build).glob('*.whl')
        own.mkdir(parents=True, exist_ok=True)
        part = own / f'{built.name}.part'
        shutil.copyfile(built, part)
        part.replace(own / built.name)
    if not try_wheel(own / built.name, constraints):
        sys.exit(f'[setup] mmcv was built for torch {torch}, but `{sys.executable} -c "import mmcv.ops"` fails')


def try_wheel(wheel: Path, constraints: str) -> bool:
    """Install one mmcv wheel with what it needs; True when its ops import."""
    say(f'trying {wheel}')
    pip('uninstall', '--yes', '--quiet', 'onedl-mmcv')
    fits = pip('install', '-c', constraints, str(wheel), check=False) and ops_import()
    say('its ops import' if fits else 'it does not fit')
    return fits


def main() -> None:
    """Bring the environment up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--torch', help='another torch, e.g. "torch==2.11.0 torchvision==0.26.0"')
    parser.add_argument('--torch-index', help='index URL to take that torch from')
    args = parser.parse_args()

    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        found = sys.version.split()[0]
        sys.exit(f'[setup] Python is {found}; the pinned versions need 3.11 or 3.12: make setup PYTHON=python3.11')
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = dict(line.split('==') for line in lines if '==' in line and not line.startswith('#'))
    inputs = [ROOT / name for name in ('constraints.txt', 'setup.py', 'setup.cfg', 'dev/setup_env.py')]
    digest = hashlib.sha256(b''.join(path.read_bytes() for path in inputs)).hexdigest()
    state = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    if not args.torch and state.get('digest') == digest and state.get('mmcv_built_for') == torch_version():
        say('up to date')
        return

    pip('install', '--upgrade', 'pip', 'setuptools<82', 'wheel')
    install_torch(args.torch, args.torch_index, pins)
    torch = torch_version()
    if torch is None:
        sys.exit('[setup] torch was installed, but its version file is missing')
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as constraints:
        # triton belongs to one torch
        rest = [line for line in lines if line.split('==')[0] not in ('torch', 'torchvision', 'triton')]
        # public versions, without the build tag: what is installed satisfies them, whatever its build
        rest += [f'{name}=={(installed(name) or "").split("+")[0]}' for name in ('torch', 'torchvision')]
        constraints.write('\n'.join([*rest, '']))
        constraints.flush()
        install_mmcv(pins['onedl-mmcv'], torch, state.get('mmcv_built_for'), constraints.name)
        say('installing everything else')
        # without build isolation: the OpenMMLab sources look for torch while they are built
        pip('install', '--no-build-isolation', '-c', constraints.name, '-e', f'{ROOT}[all,dev]')
    state = {'digest': digest, 'mmcv_built_for': torch}
    part = STAMP.with_suffix('.part')
    part.write_text(json.dumps(state))
    part.replace(STAMP)
    say('done; `.venv/bin/python -m galr_mm.cli.collect_env` shows what is installed')


if __name__ == '__main__':
    main()
