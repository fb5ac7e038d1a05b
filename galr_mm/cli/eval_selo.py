"""Evaluate semantic localization: how well a model finds where in a scene a sentence is true.

The indicators Rsu, Ras, Rda and Rmi, averaged over the sentences of annotations in the format of AIR-SLT, beside
those of a map of ones and of the maps of another sentence::

    python tools/eval_selo.py CONFIG CHECKPOINT --annotations anno.json --scenes imgs --out selo.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.device import get_device
from mmengine.model import BaseModel
from tqdm import tqdm

from galr_mm.apis import SceneLocalizer, init_model
from galr_mm.cli.common import ConfigOptions, read_config, require_writable
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.cli.test import require_weights
from galr_mm.datasets.localization import LocalizationCase, read_air_slt
from galr_mm.evaluation import semantic_localization_metrics
from galr_mm.imagery import SCALES, ImageFolder
from galr_mm.structures import LocalizationMap
from galr_mm.utils.allocator import keep_freed_memory
from galr_mm.utils.io import write_text

MAPS = ('model', 'constant', 'shuffled')
INDICATORS = ('rsu', 'ras', 'rda', 'rmi')


def evaluate(
    localizer: SceneLocalizer, cases: Sequence[LocalizationCase], scenes: Path, median: int, seed: int
) -> list[dict[str, Any]]:
    """Indicators of each case: of the model's map, of a map of ones, and of the map of another sentence.

    Raises:
        FileNotFoundError: when a scene is missing; names them.
        ValueError: when there are not two different sentences, or the indicators of a case have no value; names it.
    """
    names = list(dict.fromkeys(case.scene for case in cases))
    files = dict(zip(names, ImageFolder(scenes).locate([[name] for name in names], 'scenes'), strict=True))
    others = other_sentences([case.sentence for case in cases], seed)
    order = sorted(range(len(cases)), key=lambda index: cases[index].scene)
    results: list[dict[str, Any]] = [{}] * len(cases)
    with tqdm(total=len(cases), desc='sentences', disable=None) as bar:
        for scene, group in groupby(order, key=lambda index: cases[index].scene):
            embeddings = localizer.encode(scenes / files[scene])
            for index in group:
                case = cases[index]
                maps = localizer(embeddings, [case.sentence, others[case.sentence]])
                try:
                    results[index] = dict(zip(MAPS, indicators(case, maps, median), strict=True))
                except ValueError as error:
                    raise ValueError(f'entry {index} on {scene}: {error}') from error
                bar.update()
    return [
        dict(scene=case.scene, sentence=case.sentence, shuffled_sentence=others[case.sentence]) | result
        for case, result in zip(cases, results, strict=True)
    ]


def indicators(case: LocalizationCase, maps: Sequence[LocalizationMap], median: int) -> Iterator[dict[str, float]]:
    """Those of the map of the sentence, of a map of ones, and of the map of another sentence."""
    own, other = (found.normalized(median) for found in maps)
    for prob in (own, np.ones_like(own), other):
        yield semantic_localization_metrics(prob, case.regions)


def other_sentences(sentences: Sequence[str], seed: int) -> dict[str, str]:
    """Another sentence for each, every one used once, drawn with a seed.

    >>> other_sentences(['a river', 'a road', 'a river'], seed=0)
    {'a river': 'a road', 'a road': 'a river'}
    """
    different = sorted(set(sentences))
    if len(different) < 2:
        raise ValueError(f'the only sentence is {different[0]!r}: the baseline needs another one')
    ring = np.random.default_rng(seed).permutation(different).tolist()
    return dict(sorted(zip(ring, ring[1:] + ring[:1], strict=True)))


def means(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average of each indicator over the cases, of each map."""
    return {
        name: {key: float(np.mean([result[name][key] for result in results])) for key in INDICATORS} for name in MAPS
    }


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoint', nargs='?', help='left out for a model whose weights all come from files of its config'
    )
    parser.add_argument('--annotations', type=Path, required=True, help='json in the format of AIR-SLT')
    parser.add_argument('--scenes', type=Path, required=True, help='folder of the scenes')
    parser.add_argument('--out', type=Path, required=True, help='json for the averages and each sentence')
    parser.add_argument('--scales', type=int, nargs='+', default=list(SCALES), help='sides of the windows in pixels')
    parser.add_argument('--median', type=int, default=251, help='side of the median filter on the map; 0: none')
    parser.add_argument('--batch-size', type=int, default=32, help='windows at a time')
    parser.add_argument('--seed', type=int, default=0, help='of the shuffled sentences')
    parser.add_argument('--device', default=get_device(), help='default: the GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    if args.median < 0 or (args.median and not args.median % 2):
        parser.error(f'--median is {args.median}, expected 0 or an odd number of pixels')
    return args


def load_model(args: argparse.Namespace) -> BaseModel:
    """The model of the command line, all of whose weights come from files."""
    config = read_config(args.config, args.cfg_options)
    if args.device == 'cpu':
        keep_freed_memory()
    try:
        model = init_model(config, args.checkpoint, args.device)
    except RuntimeError as error:
        raise SystemExit(f'{args.config} with {args.checkpoint}: {str(error)[:1500]}') from error
    if args.checkpoint is None:
        require_weights(model)
    return model


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    args = parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the averages."""
    require_writable(args.out.parent, '--out')
    cases = read_air_slt(args.annotations)
    localizer = SceneLocalizer(load_model(args), args.scales, args.batch_size)
    results = evaluate(localizer, cases, args.scenes, args.median, args.seed)
    averages = means(results)
    settings = dict(
        config=args.config, checkpoint=args.checkpoint, annotations=str(args.annotations), scales=args.scales,
        median=args.median, seed=args.seed, scenes=len({case.scene for case in cases}), sentences=len(cases),
    )  # fmt: skip
    write_text(args.out, json.dumps(settings | averages | dict(per_sentence=results), indent=1, ensure_ascii=False))
    print(f'{"":10}' + ''.join(f'{name:>8}' for name in INDICATORS))
    for name in MAPS:
        print(f'{name:10}' + ''.join(f'{averages[name][key]:8.4f}' for key in INDICATORS))
