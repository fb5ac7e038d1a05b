"""Look at what a model is given: ``python tools/visualization/browse_dataset.py CONFIG --out-dir DIR``.

Draws images after the pipeline's augmentation, with their boxes and captions, as PNG files; no display is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from galr_mm.cli.common import add_browse_arguments, load_split
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.models.retrievers.dual_encoder import texts_of
from galr_mm.structures import Detections
from galr_mm.visualization import draw_sample


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_browse_arguments(parser)
    args = parser.parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Draw some samples of a split."""
    _, dataset, indices = load_split(args)
    classes = dataset.metainfo.get('proposal_classes', ())
    np.random.seed(args.seed)  # of the augmentation
    for index in indices:
        data = dataset[index]
        sample = data['data_samples']
        found = sample.get('proposals')
        draw_sample(
            data['inputs'].numpy().transpose(1, 2, 0)[..., ::-1],
            Detections.empty() if found is None else Detections.from_instances(found, sample.img_shape),
            [text for text in texts_of(sample) if isinstance(text, str)],
            args.out_dir / f'{index:06d}_{Path(sample.file_name).stem}.png',
            classes,
        )
    print(f'{len(indices)} images drawn to {args.out_dir}')
