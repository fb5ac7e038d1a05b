"""Checkpoints: what mmengine saves and .safetensors, from files and links, everywhere weights are taken.

mmengine finds the reader of a checkpoint by how its name begins. Its readers of files and links are replaced here by
ones that read .safetensors as well and name a file that they cannot read. So ``load_from``, ``init_cfg=dict(
type='Pretrained')``, detectors and the tools take the same files as :func:`galr_mm.apis.init_model`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local
from safetensors.torch import load_file
from torch import Tensor

from galr_mm.messages import first_of, reason, shorten
from galr_mm.utils.io import instead_of

SUFFIXES = ('.pth', '.pt', '.safetensors')


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_file(filename: str, map_location: Any = None) -> Any:
    """What a file holds; of a .safetensors, whatever its name, a dict with its ``state_dict``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read; names it, and says what it is where its bytes tell.
    """
    require_checkpoint(filename)
    path = os.path.expanduser(filename)
    if instead := instead_of(path):
        raise ValueError(f'{filename} cannot be read: it is {instead}')
    try:
        if not _is_safetensors(path):
            return load_from_local(path, map_location)
        device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
        return dict(state_dict=load_file(path, device=str(device)))
    except Exception as error:  # a broken file makes its reader raise anything
        raise ValueError(f'{filename} cannot be read: {reason(error)}') from error


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_link(filename: str, map_location: Any = None) -> Any:
    """What the file of a link holds; it is kept where torch.hub keeps its downloads.

    Raises:
        OSError: when it cannot be downloaded; names the link.
        ValueError: when it cannot be read.
    """
    path = Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlsplit(filename).path))
    try:
        if is_main_process() and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(path), progress=os.isatty(2))
    except (OSError, ValueError) as error:
        raise OSError(f'{filename} cannot be downloaded: {reason(error)}') from error
    finally:
        barrier()
    try:
        return load_from_file(str(path), map_location)
    except ValueError:
        path.unlink(missing_ok=True)  # so that the next try downloads it again
        raise


def require_checkpoint(path: str | Path) -> None:
    """Stop where a checkpoint that is a file is not there.

    Raises:
        FileNotFoundError: names it, and the checkpoints of the folder that it is, or is in.
    """
    wanted = Path(path).expanduser()
    if is_link(path) or wanted.is_file():
        return
    folder = wanted if wanted.is_dir() else wanted.parent
    names = sorted(file.name for suffix in SUFFIXES for file in folder.glob(f'*{suffix}'))
    what = ', which is a folder' if wanted.is_dir() else ''
    there = f'; {folder} has {first_of(names)}' if names else ''
    raise FileNotFoundError(f'no checkpoint at {path}{what}{there}')


def is_link(path: str | Path) -> bool:
    """Whether a checkpoint is named by a scheme that mmengine knows, such as https:// or torchvision://."""
    return '://' in str(path)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """What a checkpoint holds by name, on the CPU.

    Args:
        path: a file, or a link.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when a link cannot be downloaded.
        ValueError: when it cannot be read or holds something else; names it.
    """
    content = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} is not a checkpoint: it holds {shorten(content)}, expected tensors by name')
    return content


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights of a checkpoint by name, on the CPU, without the prefix of a wrapper.

    Raises:
        OSError, ValueError: as :func:`read_checkpoint`, and for a checkpoint without weights.
    """
    content = read_checkpoint(path)
    weights = content.get('state_dict', content)
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f'{path} holds no weights: expected tensors by name, got {shorten(weights)}')
    return {str(name).removeprefix('module.'): value for name, value in weights.items()}


def _is_safetensors(path: str) -> bool:
    """By the content: 8 bytes with the length of a json header, then the header."""
    with open(path, 'rb') as file:
        return file.read(9)[8:] == b'{'
