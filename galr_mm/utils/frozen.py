from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


def keep_out_of_checkpoints(module: nn.Module, name: str) -> None:
    """Leave the weights of the part ``module.<name>`` out of state dicts, and do not miss them when one is loaded.

    For frozen parts whose weights come from a file of their own. A part that gets other weights by a state dict,
    because it was tuned before, keeps them in its state dicts from then on.

    What was loaded is kept on the part itself (``part.loaded_from_checkpoint``), so a copy of the module has its own.

    >>> from torch import nn
    >>> model = nn.ModuleDict(dict(frozen=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    >>> keep_out_of_checkpoints(model, 'frozen')
    >>> sorted(model.state_dict())
    ['head.bias', 'head.weight']
    """
    part = module.get_submodule(name)
    if not isinstance(getattr(part, 'loaded_from_checkpoint', None), bool):
        part.loaded_from_checkpoint = False  # type: ignore[assignment]  # a plain bool, no parameter
    module._register_state_dict_hook(partial(_leave_out, name))
    module.register_load_state_dict_pre_hook(partial(_fill_in, name))


def _leave_out(name: str, module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    if module.get_submodule(name).loaded_from_checkpoint:
        return
    for key in [key for key in state_dict if key.startswith(f'{prefix}{name}.')]:
        del state_dict[key]


def _fill_in(name: str, module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    part = module.get_submodule(name)
    part.loaded_from_checkpoint = any(key.startswith(f'{prefix}{name}.') for key in state_dict)  # type: ignore[assignment]
    for key, value in part.state_dict().items():
        state_dict.setdefault(f'{prefix}{name}.{key}', value)
