"""Report what is installed and what to do about what is broken: ``python -m galr_mm.cli.collect_env``."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from collections.abc import Sequence

import galr_mm
from galr_mm.integrations.installation import OPENMMLAB, REBUILD_MMCV, mixed_lines, mmcv_ops_error, version_of

OPTIONAL = {
    'mmdet': 'detect',
    'rasterio': 'geo',
    'open_clip': 'clip',
    'transformers': 'text',
    'fastapi': 'serve',
    'pymilvus': 'milvus',
}
OTHERS = (
    'torch',
    'torchvision',
    'torch-geometric',
    'open_clip_torch',
    'pycocotools',
    'numpy',
    'opencv-python',
    'transformers',
)


def report() -> tuple[list[str], list[str]]:
    """Lines that describe the environment, and commands that fix what is broken."""
    lines = [f'galr_mm: {galr_mm.__version__}', f'Python: {sys.version.split()[0]} on {platform.platform()}']
    fixes = []
    for name, (onedl, upstream) in OPENMMLAB.items():
        found = [f'{dist} {version_of(dist)}' for dist in (onedl, upstream) if version_of(dist)]
        lines.append(f'{name}: {" AND ".join(found) or "not installed"}')
    for dist in OTHERS:
        lines.append(f'{dist}: {version_of(dist) or "not installed"}')
    lines.append(f'OpenMMLab line: {openmmlab_line()}')
    if mixed_lines():
        dists = ' '.join(dist for pair in OPENMMLAB.values() for dist in pair if version_of(dist))
        wanted = ' '.join(onedl for onedl, upstream in OPENMMLAB.values() if version_of(onedl) or version_of(upstream))
        fixes.append(f'pip uninstall -y {dists}; pip install --no-build-isolation {wanted}')
    error = mmcv_ops_error()
    lines.append(f'mmcv.ops: {"imports" if error is None else error}')
    if error:
        fixes.append(REBUILD_MMCV)
    if version_of('torch'):
        import torch

        lines.append(f'GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}')
    for module, extra in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            fixes.append(f'pip install "galr_mm[{extra}]"  # optional')
    return lines, fixes


def openmmlab_line() -> str:
    """Which line of OpenMMLab is installed."""
    if mixed_lines():
        return f'BOTH lines hold {", ".join(mixed_lines())}: they overwrite each other'
    if any(version_of(onedl) for onedl, _ in OPENMMLAB.values()):
        return 'onedl (the maintained continuation)'
    return 'upstream' if any(version_of(upstream) for _, upstream in OPENMMLAB.values()) else 'none'


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    lines, fixes = report()
    print('\n'.join(lines))
    if fixes:
        print('\nTo fix it, run:\n  ' + '\n  '.join(fixes))


if __name__ == '__main__':
    main()
