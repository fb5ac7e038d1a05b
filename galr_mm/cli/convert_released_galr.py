"""Convert a checkpoint of the released GaLR code: ``python tools/model_converters/released_galr.py SRC.pth DST.pth``.

The result fits ``configs/galr_released_rsicd.py``. The released word-embedding network (``text_feature.seq2vec.*``) and
the classifier of the backbone (``resnet.fc.*``), which the model never uses, are set aside; any other unknown key is an
error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.runner.checkpoint import save_checkpoint
from torch import Tensor

from galr_mm.cli.errors import one_line
from galr_mm.integrations.checkpoints import read_checkpoint
from galr_mm.messages import clip, shorten
from galr_mm.utils.io import atomic_write

SET_ASIDE = ('text_feature.seq2vec.', 'extract_feature.resnet.fc.')
# released prefix -> ours, the most specific first
PREFIXES = {
    'extract_feature.resnet.': 'backbone.',
    'extract_feature.linear.': 'visual.solo_fc.',
    'mvsa.LF_conv.': 'visual.low_conv.',
    'mvsa.HF_conv.': 'visual.high_conv.',
    'mvsa.conv1x1_1.': 'visual.value_conv.',
    'mvsa.conv1x1_2.': 'visual.gate_conv.',
    'mvsa.solo_attention.': 'visual.mask_fc.',
    'local_feature.fc1.': 'local.gcn.layers.0.nn.',
    'local_feature.fc2.': 'local.gcn.layers.1.nn.',
    'local_feature.fc3.': 'local.gcn.layers.2.nn.',
    'local_feature.out.': 'local.gcn.out.',
    'text_feature.to_out.': 'text_encoder.fc.',
    'fusion.g2g_SA.': 'fusion.global_self.',
    'fusion.l2l_SA.': 'fusion.local_self.',
    'fusion.g2l_SGA.': 'fusion.local_guided.',
    'fusion.l2g_SGA.': 'fusion.global_guided.',
    'fusion.dynamic_weight.': 'fusion.weights.',
}
# inside an attention block
BLOCK_PARTS = {
    'mhatt.': 'attentions.0.',
    'mhatt1.': 'attentions.0.',
    'mhatt2.': 'attentions.1.',
    'ffn.mlp.fc.linear.': 'ffn.0.',
    'ffn.mlp.linear.': 'ffn.3.',
    'norm1.': 'norms.0.',
    'norm2.': 'norms.1.',
    'norm3.': 'norms.2.',
}
LEAVES = {'linear_merge.': 'out_proj.', 'a_2': 'weight', 'b_2': 'bias'}


def rename(key: str) -> str:
    """Our name of a released key; ``linear_q/k/v`` stay to be packed.

    Raises:
        KeyError: when the key is unknown.
    """
    for old, new in PREFIXES.items():
        if key.startswith(old):
            rest = key[len(old) :]
            if '_self.' in new or '_guided.' in new:
                part = next((p for p in BLOCK_PARTS if rest.startswith(p)), None)
                if part is None:
                    break
                rest = BLOCK_PARTS[part] + rest[len(part) :]
                for leaf, ours in LEAVES.items():
                    rest = rest.replace(leaf, ours)
            return new + rest
    raise KeyError(key)


def convert(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a released one.

    Raises:
        KeyError: naming all keys that are neither known nor set aside.
        ValueError: when there is nothing, something else than tensors, or an incomplete query, key or value projection.
    """
    ours: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in released.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f'{shorten(key)} holds a {type(value).__name__}, expected tensors by name')
        key = key.removeprefix('module.')  # torch's DataParallel
        if key.startswith(SET_ASIDE):
            continue
        try:
            name = rename(key)
        except KeyError:
            unknown.append(key)
            continue
        if '.linear_' in name:
            block, leaf = name.split('.linear_')
            role, kind = leaf.split('.')
            packed.setdefault(f'{block}.in_proj_{kind}', {})[role] = value
        else:
            ours[name] = value
    if unknown:
        raise KeyError(f'{len(unknown)} keys are not of the released GaLR: {clip(", ".join(sorted(unknown)[:10]))}')
    if not ours:
        raise ValueError("the state dict is empty, expected a dict whose 'model' is that of the released model")
    for name, parts in packed.items():
        if set(parts) != set('qkv'):
            raise ValueError(f'{name}: expected the projections q, k and v, got {", ".join(sorted(parts))}')
        ours[name] = torch.cat([parts[role] for role in 'qkv'])
    # torch-geometric's layers carry an epsilon that plays no part without self loops
    ours |= {f'local.gcn.layers.{layer}.eps': torch.zeros(1) for layer in range(3)}
    return ours


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help="released checkpoint, a dict whose 'model' is the state dict")
    parser.add_argument('target', type=Path, help='checkpoint to write')
    args = parser.parse_args(argv)
    if not args.source.is_file():
        raise SystemExit(f'no file at {args.source}')
    checkpoint = read_checkpoint(args.source)
    released = checkpoint.get('model', checkpoint.get('state_dict'))
    if not isinstance(released, dict):  # a .safetensors holds the state dict alone
        raise SystemExit(f"{args.source} is not a released checkpoint: expected a dict whose 'model' is the state dict")
    try:
        weights = convert(released)
    except (KeyError, ValueError) as error:
        raise SystemExit(f'{args.source}: {error.args[0]}') from error
    try:
        with atomic_write(args.target) as part:
            save_checkpoint({'state_dict': weights, 'meta': {}}, str(part))
    except OSError as error:
        raise SystemExit(f'cannot write {args.target} ({error})') from error
    print(f'{len(weights)} tensors written to {args.target}')
