"""Check everything a config's data sets need, and list all problems at once: ``verify_dataset.py CONFIG``.

Captions, splits, every image decoded, proposals, vocabulary. Exits with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from PIL import Image

from galr_mm.cli.common import ConfigOptions, read_config
from galr_mm.datasets.captions import clean_split, load_karpathy
from galr_mm.datasets.transforms import LoadImageWithProposals
from galr_mm.detection import ProposalSet
from galr_mm.text import Vocabulary
from galr_mm.utils.config import LOADERS
from galr_mm.utils.io import missing_files
from galr_mm.utils.logging import progress

LOAD = LoadImageWithProposals()


def decode(path: str) -> str:
    """Why an image cannot be decoded to its last byte; empty when it can."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
                return f'{path}: values of type {image.mode}, expected 8 bit; convert it first'
        LOAD({'img_path': path})  # as in training
    except Exception as error:  # PIL raises many kinds on broken files
        return f'{path}: {type(error).__name__}: {error}'
    return ''


def innermost(config: dict[str, Any]) -> dict[str, Any]:
    """The data set inside wrappers such as RepeatDataset."""
    while 'dataset' in config:
        config = config['dataset']
    return config


class Expected(NamedTuple):
    """What the model of a config asks of its data."""

    vocabulary: Vocabulary | None
    num_classes: int | None


def check_split(config: dict[str, Any], expected: Expected) -> Iterator[str]:
    """Problems of one split; prints what is fine."""
    root, split = config.get('data_root') or '', config['split']
    ann_file = os.path.join(root, config['ann_file'])
    try:
        clean = clean_split(load_karpathy(ann_file), split, ann_file)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    names = [record['filename'] for record in clean.records]
    captions = [s['raw'] for record in clean.records for s in record['sentences']]
    print(f'{split}: {len(names)} images, {len(captions)} captions in {ann_file}. {clean.summary()}')
    doubled = len(names) - len(set(names))
    if doubled:
        yield f'{ann_file}: {doubled} images are listed more than once in {split}'
    yield from check_images(names, os.path.join(root, config.get('data_prefix', {}).get('img_path', 'images')), split)
    if expected.vocabulary is not None:
        unknown = expected.vocabulary.unknown_words(captions)
        print(f'{split}: {len(unknown)} words are not in the vocabulary, {unknown.total()} times')
    proposal_file = config.get('proposal_file', 'auto')
    path = Path(root, 'proposals.json' if proposal_file == 'auto' else proposal_file or '')
    if proposal_file is None or (proposal_file == 'auto' and not path.is_file()):
        print(f'{split}: no proposals; the local branch will be a constant')
    else:
        yield from check_proposals(names, path, split, expected.num_classes)


def check_images(names: list[str], folder: str, split: str) -> Iterator[str]:
    """Images that are missing or cannot be decoded."""
    try:
        missing = set(missing_files(names, folder))
    except OSError as error:
        yield str(error)
        return
    yield from (f'{split}: missing {os.path.join(folder, name)}' for name in names if name in missing)
    present = [os.path.join(folder, name) for name in names if name not in missing]
    with ThreadPool(os.cpu_count()) as pool:
        decoded = progress(pool.imap(decode, present), total=len(present), desc=f'{split}: decoding', unit='image')
        yield from (f'{split}: unreadable {problem}' for problem in decoded if problem)


def check_proposals(names: list[str], path: Path, split: str, num_classes: int | None) -> Iterator[str]:
    """Problems of a proposal file."""
    try:
        proposals = ProposalSet(path)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    absent = [name for name in names if name not in proposals]
    print(f'{split}: {path} covers {len(names) - len(absent)} of {len(names)} images, {len(proposals.classes)} classes')
    if num_classes not in (None, len(proposals.classes)):
        yield f'{path} has {len(proposals.classes)} classes, but the num_classes of the model is {num_classes}'
    if len(absent) == len(names):
        yield f'{path} knows none of the {split} images'


def check_overlap(datasets: list[dict[str, Any]]) -> Iterator[str]:
    """Images that are in more than one split."""
    images: dict[str, str] = {}
    for config in datasets:
        try:
            records = load_karpathy(os.path.join(config.get('data_root') or '', config['ann_file']))
        except (OSError, ValueError):
            continue  # reported by check_split
        for record in records:
            if record['split'] == config['split']:
                other = images.setdefault(record['filename'], config['split'])
                if other != config['split']:
                    yield f'{record["filename"]} is in {other} and in {config["split"]}'


def num_classes_of(model: Mapping[str, Any]) -> int | None:
    """``num_classes`` of the model's DREA, wherever the model keeps it; None where it has none."""
    drea = model.get('drea') or (model.get('local') or {}).get('drea') or {}
    return drea.get('num_classes')


def check(cfg: Config) -> list[str]:
    """All problems of a config's data sets."""
    problems: list[str] = []
    model = cfg.get('model') or {}
    vocabulary = None
    path = (model.get('text_encoder') or {}).get('vocabulary')
    if path:
        try:
            vocabulary = Vocabulary.load(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    datasets = []
    for name in LOADERS:
        if cfg.get(name) is None:
            continue
        config = innermost(cfg[name].dataset)
        if 'ann_file' not in config or 'split' not in config:
            raise SystemExit(f'{name} holds {config.get("type")!r}, expected an ImageTextDataset')
        datasets.append(config)
    if not datasets:
        raise SystemExit(f'the config has no data set to verify: none of {", ".join(LOADERS)}')
    for config in datasets:
        problems += check_split(config, Expected(vocabulary, num_classes_of(model)))
    problems += check_overlap(datasets)
    return list(dict.fromkeys(problems))


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    args = parser.parse_args(argv)
    problems = check(read_config(args.config, args.cfg_options))
    for problem in problems:
        print(f'PROBLEM {problem}')
    print(f'{len(problems)} problems')
    raise SystemExit(bool(problems))
