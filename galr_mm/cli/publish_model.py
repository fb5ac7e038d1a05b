"""Make a small file of a checkpoint for others: ``python tools/model_converters/publish_model.py CKPT --out FILE``.

The optimizer's state is left out, weights are float16, the format is safetensors, which holds no code. A bi-GRU's
vocabulary is in the file. What it was trained on goes into its header with ``--note``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from galr_mm.cli.errors import one_line
from galr_mm.integrations.checkpoints import read_weights, require_checkpoint
from galr_mm.messages import shorten
from galr_mm.utils.io import atomic_write


def publishable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with float16 in place of wider floats.

    Raises:
        ValueError: when a value is not finite, or too large for float16; names the weight.
    """
    out = {}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f'{name} holds {shorten(value)}, expected a tensor')
        small = value.half() if value.is_floating_point() else value
        if small.is_floating_point() and not torch.isfinite(small).all():
            raise ValueError(f'{name} holds values that float16 does not: {value.abs().max().item():.3g}')
        out[name] = small.contiguous()
    return out


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='of a training')
    parser.add_argument('--out', type=Path, required=True, help='name that ends in .safetensors')
    parser.add_argument(
        '--note', action='append', default=[], metavar='KEY=TEXT', help='for the header; may be repeated'
    )
    args = parser.parse_args(argv)
    if args.out.suffix != '.safetensors':
        raise SystemExit(f'--out is {args.out}, expected a name that ends in .safetensors')
    require_checkpoint(args.checkpoint)
    wrong = [note for note in args.note if '=' not in note]
    if wrong:
        parser.error(f'--note: {wrong[0]!r} is not KEY=TEXT')
    weights = read_weights(args.checkpoint)
    try:
        weights = publishable(weights)
    except ValueError as error:
        raise SystemExit(f'{args.checkpoint}: {error}') from error
    with atomic_write(args.out) as part:
        part.write_bytes(save(weights, metadata=dict(note.split('=', 1) for note in args.note)))
    print(f'{args.out}: {len(weights)} tensors, {args.out.stat().st_size / 2**20:.1f} MiB')
