"""Check everything a config's data sets need, and list all problems at once: ``verify_dataset.py CONFIG``.

Captions, splits, every image decoded, proposals, vocabulary. Exits with 1 where something is wrong. What loading
changes (values of more than 8 bit, alpha, more bands, pages, EXIF rotation, boxes for another size) is counted, with an
example; it is not a problem.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from galr_mm.cli.common import ConfigOptions, read_config
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.datasets.captions import clean_split, load_karpathy
from galr_mm.datasets.transforms.loading import fit_of_sizes
from galr_mm.detection import ProposalSet
from galr_mm.detection.coco import describe_dropped
from galr_mm.engine.checks import TrainingError, check_batches
from galr_mm.imagery.files import ImageFolder, listed_names
from galr_mm.imagery.header import Header, open_with_pillow, read_header
from galr_mm.imagery.pixels import decode_file
from galr_mm.messages import first_of
from galr_mm.text import Vocabulary
from galr_mm.utils.config import LOADERS, datasets_of
from galr_mm.utils.logging import progress

MISSING = 10  # images of a split that are named


class Examined(NamedTuple):
    """An image as training would load it: why it cannot, or what loading changes, and its header."""

    problem: str = ''
    changes: tuple[str, ...] = ()
    header: Header | None = None


def examine(path: str) -> Examined:
    """Load an image as in training, and look whether it is there to its last byte, where decoders fill up."""
    try:
        changes = decode_file(path).changes
        with open(path, 'rb') as file:
            header = read_header(file)
            image = open_with_pillow(file) if header is not None and header.tags is None else None
            if image is not None:
                image.load()
        return Examined(changes=changes, header=header)
    except Exception as error:  # Pillow raises many kinds on broken files
        reason = f'{type(error).__name__}: {error}'
        return Examined(problem=str(error) if path in str(error) else f'{path}: {reason}')


def folder_of(config: dict[str, Any]) -> str:
    """Where the images of a data set lie."""
    return os.path.join(config.get('data_root') or '', config.get('data_prefix', {}).get('img_path', 'images'))


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
    captions = [s['raw'] for record in clean.records for s in record['sentences']]
    print(f'{split}: {len(clean.records)} images, {len(captions)} captions in {ann_file}. {clean.summary()}')
    names, problems = look_up(clean.records, folder_of(config), split)
    yield from problems
    doubled = len(names) - len(set(names))
    if doubled:
        yield f'{ann_file}: {doubled} images are listed more than once in {split}'
    headers: dict[str, Header | None] = dict.fromkeys(sorted(set(names)))
    yield from check_images(headers, folder_of(config), split)
    if expected.vocabulary is not None:
        unknown = expected.vocabulary.unknown_words(captions)
        print(f'{split}: {len(unknown)} words are not in the vocabulary, {unknown.total()} times')
    proposal_file = config.get('proposal_file', 'auto')
    path = Path(root, 'proposals.json' if proposal_file == 'auto' else proposal_file or '')
    if proposal_file is None or (proposal_file == 'auto' and not path.is_file()):
        print(f'{split}: no proposals; the local branch will be a constant')
    else:
        yield from check_proposals(headers, path, split, expected.num_classes)


def look_up(records: list[dict[str, Any]], folder: str, split: str) -> tuple[list[str], list[str]]:
    """Names that the images have in ``folder``, and which are missing or could be more than one file."""
    names, problems, missing = [], [], []
    try:
        images = ImageFolder(folder)
    except OSError as error:
        return [], [str(error)]
    for record in records:
        listed = listed_names(record)
        try:
            name = images.find(*listed)
        except ValueError as error:
            problems.append(f'{split}: {error}')
            continue
        if name is None:
            missing.append(listed[0])
        else:
            names.append(name)
    problems += [f'{split}: missing {os.path.join(folder, name)}' for name in missing[:MISSING]]
    if len(missing) > MISSING:
        problems.append(f'{split}: {len(missing) - MISSING} more of {len(records)} images are missing in {folder}')
    above = Path(folder).name
    if any(Path(name).parts[:1] == (above,) for name in missing):
        problems.append(f'{split}: file names are relative to {folder}, but some begin with {above}/')
    return names, problems


def check_images(headers: dict[str, Header | None], folder: str, split: str) -> Iterator[str]:
    """Images that cannot be decoded; prints what loading changes, and fills in the ``headers`` of the names."""
    names = list(headers)
    notes: dict[str, list[str]] = {}
    with ThreadPool(os.cpu_count()) as pool:
        loaded = pool.imap(examine, [os.path.join(folder, name) for name in names])
        for name, found in zip(
            names, progress(loaded, total=len(names), desc=f'{split}: decoding', unit='image'), strict=True
        ):
            headers[name] = found.header
            for change in found.changes:
                notes.setdefault(change, []).append(name)
            if found.problem:
                yield f'{split}: unreadable {found.problem}'
    print_notes(split, notes)


def check_proposals(
    headers: Mapping[str, Header | None], path: Path, split: str, num_classes: int | None
) -> Iterator[str]:
    """Problems of a proposal file; prints for how many images its boxes are scaled, rotated or stretched.

    Args:
        headers: of the images by their names.
        path: the file.
        split: of the images.
        num_classes: that the model expects.
    """
    try:
        proposals = ProposalSet(path)
        absent = proposals.absent(headers)
    except (OSError, ValueError) as error:
        yield str(error)
        return
    covered = len(headers) - len(absent)
    print(f'{split}: {path} covers {covered} of {len(headers)} images, {len(proposals.classes)} classes')
    if absent:
        print(f'{split}: {len(absent)} images are not in {path} and come without objects: {first_of(absent)}')
    if proposals.dropped:
        print(f'{split}: {path}: {describe_dropped(proposals.dropped)}')
    notes: dict[str, list[str]] = {}
    for name, header in headers.items():
        found = proposals.get(name)
        fit = 'equal' if found is None or not len(found) else fit_of_sizes(found.image_size, header)
        if found is not None and header is not None and fit != 'equal':
            kind = f'proposals {fit} to the size of the file'
            notes.setdefault(kind, []).append(f'{name}: for {found.image_size}, the file is {header.image_size}')
    print_notes(split, notes)
    if num_classes not in (None, len(proposals.classes)):
        yield f'{path} has {len(proposals.classes)} classes, but the num_classes of the model is {num_classes}'
    if headers and not covered:
        yield f'{path} knows none of the {split} images'


def print_notes(split: str, notes: Mapping[str, Sequence[str]]) -> None:
    """A line for each kind of change, with how many images and an example."""
    for kind, names in notes.items():
        print(f'{split}: {len(names)} images: {kind} (such as {names[0]})')


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
                path = os.path.normpath(os.path.join(folder_of(config), listed_names(record)[0]))
                other = images.setdefault(path, config['split'])
                if other != config['split']:
                    yield f'{path} is in {other} and in {config["split"]}'


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
        for config in datasets_of(cfg[name].dataset):
            if 'ann_file' not in config or 'split' not in config:
                raise SystemExit(f'{name} holds {config.get("type")!r}, expected an ImageTextDataset')
            datasets.append(config)
    if not datasets:
        raise SystemExit(f'{cfg.filename} has no data set to verify: none of {", ".join(LOADERS)}')
    for config in datasets:
        problems += check_split(config, Expected(vocabulary, num_classes_of(model)))
    problems += check_overlap(datasets)
    if not problems and 'batch_size' in (cfg.get('train_dataloader') or {}):
        try:
            loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
            for warning in check_batches(Runner.build_dataloader(loader, seed=0)):
                print(f'train: {warning}')
        except TrainingError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    args = parser.parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Read the command line."""
    problems = check(read_config(args.config, args.cfg_options))
    for problem in problems:
        print(f'PROBLEM {problem}')
    print(f'{len(problems)} problems')
    raise SystemExit(bool(problems))
