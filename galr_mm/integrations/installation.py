"""Find out whether the OpenMMLab packages fit together, and how to repair them where they do not."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType
from typing import Any

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


class OptionalModule(ModuleType):
    """Stands for a package of an extra, and imports it at its first use.

    >>> OptionalModule('no_such_package', extra='clip').anything
    Traceback (most recent call last):
    ImportError: no_such_package is not installed; get it with: pip install "galr_mm[clip]"
    """

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(name)
        self._extra = extra

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith('__'):  # what tools ask of every module is no reason to import it
            raise AttributeError(attribute)
        try:
            return getattr(importlib.import_module(self.__name__), attribute)
        except ModuleNotFoundError as error:
            if error.name != self.__name__:
                raise
            raise ImportError(
                f'{self.__name__} is not installed; get it with: pip install "galr_mm[{self._extra}]"'
            ) from error


def require_working_mmcv() -> None:
    """Stop with the command that repairs them where mmcv's ops are there but broken.

    An mmcv without ops is fine for retrieval from cached proposals. Ops that were compiled for another torch are not:
    mmengine's Runner imports them whenever the file exists, whatever the model.

    Raises:
        SystemExit: naming the import error and the command that rebuilds mmcv.
    """
    error = mmcv_ops_error()
    if error and 'without compiled ops' not in error:
        raise SystemExit(f"mmcv's compiled ops do not import ({error}).\nRepair it with:\n  {REBUILD_MMCV}")
