"""Look at object graphs: ``python tools/visualization/show_graph.py CONFIG --out-dir DIR``.

Draws, with the DREA settings of the config's model, the objects kept and merged, their salience and the strength of
their edges, as PNG files; no display and no checkpoint are needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from galr_mm.cli.common import add_browse_arguments, load_split, require_writable
from galr_mm.cli.errors import one_line, settings_of
from galr_mm.registry import MODELS
from galr_mm.structures import Detections
from galr_mm.visualization import draw_graph


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_browse_arguments(parser)
    args = parser.parse_args(argv)
    with settings_of(args.config):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Draw the graphs of some images of a split."""
    cfg, dataset, indices = load_split(args)
    local = cfg.model.get('local')
    if local is None:
        raise SystemExit(f'the model of {args.config} has no local branch, so it builds no graphs')
    if 'detections' not in dataset.get_data_info(0):
        raise SystemExit('the data set has no proposals; tools/extract_proposals.py makes them')
    require_writable(args.out_dir, '--out-dir')
    drea = MODELS.build(local.drea)
    np.random.seed(args.seed)  # of the augmentation
    for index in indices:
        data = dataset[index]
        sample = data['data_samples']
        try:
            draw_graph(
                data['inputs'].numpy().transpose(1, 2, 0)[..., ::-1],
                Detections.from_instances(sample.proposals, sample.img_shape),
                drea,
                args.out_dir / f'{index:06d}_{Path(sample.file_name).stem}.png',
                dataset.metainfo.get('proposal_classes', ()),
                title=sample.file_name,
            )
        except ValueError as error:  # a detector of other classes than the model was made for
            raise SystemExit(f'{sample.file_name}: {error}') from error
    print(f'{len(indices)} graphs drawn to {args.out_dir}')
