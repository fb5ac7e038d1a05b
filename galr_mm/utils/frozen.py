from __future__ import annotations

from typing import Any

from torch import nn


def keep_out_of_checkpoints(module: nn.Module, name: str) -> None:
    """Leave the weights of the part ``module.<name>`` out of state dicts, and do not miss them when one is loaded.

    For frozen parts whose weights come from a file of their own. A part that got other weights by a state dict, because
    it was tuned before, keeps them in its state dicts from then on.
    """
    own = []

    def leave_out(_: nn.Module, state_dict: dict[str, Any], prefix: str, __: Any) -> None:
        if own:
            return
        for key in [key for key in state_dict if key.startswith(f'{prefix}{name}.')]:
            del state_dict[key]

    def fill_in(part_of: nn.Module, state_dict: dict[str, Any], prefix: str, *__: Any) -> None:
        own[:] = [key for key in state_dict if key.startswith(f'{prefix}{name}.')]
        for key, value in getattr(part_of, name).state_dict().items():
            state_dict.setdefault(f'{prefix}{name}.{key}', value)

    module._register_state_dict_hook(leave_out)
    module.register_load_state_dict_pre_hook(fill_in)
