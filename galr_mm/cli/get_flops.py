"""Weights and FLOPs of a model: ``python tools/analysis_tools/get_flops.py CONFIG``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from galr_mm.apis import init_model
from galr_mm.cli.common import ConfigOptions, read_config
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.models import DualEncoder, HuggingFaceTextEncoder
from galr_mm.models.retrievers.dual_encoder import evaluating

COUNTED = (
    'FLOPs are two for each multiply-add of convolutions, matrix products (those inside a GRU too) and attention; '
    'element-wise operations, normalization, pooling and embeddings are not counted'
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of mmengine's tool of the same name, as far as they make sense for retrieval."""
    parser = argparse.ArgumentParser(description='Count weights, and FLOPs of one image and of one caption')
    parser.add_argument('config', help='config file; image size and captions are those of its test split')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    return parser.parse_args(argv)


def count_weights(model: nn.Module) -> dict[str, dict[str, int]]:
    """Weights in total and of each direct part, and how many of them are trained.

    >>> from torch import nn
    >>> model = nn.ModuleDict(dict(frozen=nn.Linear(2, 2).requires_grad_(False), head=nn.Linear(2, 1)))
    >>> count_weights(model)
    {'total': {'all': 9, 'trained': 3}, 'frozen': {'all': 6, 'trained': 0}, 'head': {'all': 3, 'trained': 3}}
    """
    parts = {'total': model, **dict(model.named_children())}
    counts = {
        name: dict(
            all=sum(p.numel() for p in part.parameters()),
            trained=sum(p.numel() for p in part.parameters() if p.requires_grad),
        )
        for name, part in parts.items()
    }
    return {name: count for name, count in counts.items() if count['all']}


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of a call: two for each multiply-add of convolutions, matrix products and attention.

    A GRU counts by its matrix products. Fused attention and torch's fast path of transformer layers, which torch's
    counter does not know on a CPU, are switched off for the count.

    >>> count_flops(lambda: torch.zeros(2, 3) @ torch.zeros(3, 4))
    48
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def measure(model: DualEncoder, cfg: Config) -> dict[str, Any]:
    """Weights of a model, and FLOPs of its towers for the first image and a caption of middle length of the test split.

    Args:
        model: of the config.
        cfg: its ``test_dataloader`` says what images and captions look like; of views at test time, all are counted.

    Returns:
        ``parameters`` as :func:`count_weights`; ``flops`` with image and text; ``image_size`` [height, width] and
        ``words`` of what was run, of views the first.
    """
    loader = Runner.build_dataloader(
        dict(cfg.test_dataloader, batch_size=1, num_workers=0, persistent_workers=False, pin_memory=False)
    )
    captions = sorted(
        (text for row in range(len(loader.dataset)) for text in loader.dataset.get_data_info(row)['text']),
        key=lambda text: len(text.split()) if isinstance(text, str) else 0,
    )
    caption = captions[len(captions) // 2]
    if isinstance(model.text_encoder, HuggingFaceTextEncoder):
        model.text_encoder.known.clear()  # what it remembers costs nothing
    with evaluating(model):
        batch = next(iter(loader))
        views = [batch]
        if isinstance(batch['data_samples'][0], list | tuple):  # one list a view
            views = [{key: values[i] for key, values in batch.items()} for i in range(len(batch['data_samples']))]
        views = [model.data_preprocessor(view, False) for view in views]

        def encode() -> None:
            for view in views:
                model.encode_image(view['images'], model.build_graph(view['images'], view['data_samples']))

        return dict(
            parameters=count_weights(model),
            flops=dict(image=count_flops(encode), text=count_flops(lambda: model.encode_text([caption]))),
            image_size=list(views[0]['images'].shape[-2:]),
            words=len(caption.split()) if isinstance(caption, str) else None,
        )


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    args = parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    cfg = read_config(args.config, args.cfg_options)
    missing = [name for name in ('model', 'test_dataloader') if cfg.get(name) is None]
    if missing:
        raise SystemExit(f'{args.config} has no {", ".join(missing)}')
    model = init_model(cfg)
    if not isinstance(model, DualEncoder):
        raise SystemExit(f'{args.config}: the model is a {type(model).__name__}, expected a DualEncoder or a GaLR')
    measured = measure(model, cfg)
    print(f'{"part":20}{"weights":>14}{"trained":>14}')
    for name, count in measured['parameters'].items():
        print(f'{name:20}{count["all"]:14,}{count["trained"]:14,}')
    height, width = measured['image_size']
    for name, unit in (
        ('image', f'one image of {height} x {width}'),
        ('text', f'one caption of {measured["words"]} words'),
    ):
        flops = measured['flops'][name]
        print(f'{unit}: {flops / 1e9:.4g} GFLOPs, {flops / 2e9:.4g} GMACs')
    print(COUNTED)
