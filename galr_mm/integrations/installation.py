"""Find out whether the OpenMMLab packages fit together, and how to mend them where they do not."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

# import name -> (distribution of the maintained line, upstream distribution)
OPENMMLAB = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
REBUILD_MMCV = (
    'pip uninstall -y onedl-mmcv mmcv; pip install "setuptools<82" wheel packaging ninja psutil; '
    'MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --no-binary onedl-mmcv onedl-mmcv'
)


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def mixed_lines() -> list[str]:
    """Import names that are installed from both OpenMMLab lines, which overwrite each other's files."""
    return [name for name, (onedl, upstream) in OPENMMLAB.items() if version_of(onedl) and version_of(upstream)]


def mmcv_ops_error() -> str | None:
    """Why ``mmcv.ops`` does not import; None when it does. An mmcv without ops at all reads as 'not compiled'."""
    if importlib.util.find_spec('mmcv') is None:
        return 'mmcv is not installed'
    if importlib.util.find_spec('mmcv._ext') is None:
        return 'mmcv is installed without compiled ops'
    try:
        importlib.import_module('mmcv.ops')
    except (ImportError, OSError) as error:  # undefined symbol: built for another torch
        return f'{type(error).__name__}: {error}'
    return None


def require_module(module: str, extra: str) -> None:
    """Stop where an optional package is missing.

    Raises:
        ImportError: naming the extra of galr_mm that brings the package.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(f'{module} is not installed; get it with: pip install "galr_mm[{extra}]"')


def require_working_mmcv() -> None:
    """Stop with the mending command where mmcv's ops are there but broken.

    An mmcv without ops is fine for retrieval from cached proposals. Ops that were compiled for another torch are not:
    mmengine's Runner imports them whenever the file exists, whatever the model.

    Raises:
        SystemExit: naming the import error and the command that rebuilds mmcv.
    """
    error = mmcv_ops_error()
    if error and 'without compiled ops' not in error:
        raise SystemExit(f"mmcv's compiled ops do not import ({error}).\nMend it with:\n  {REBUILD_MMCV}")
