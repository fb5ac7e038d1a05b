from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from galr_mm.registry import HOOKS
from galr_mm.structures import Detections


@HOOKS.register_module()
class RankedHitsHook(Hook):
    """After a test, draws a sheet of caption queries with their best images, boxes and positives marked.

    Sheets go to ``out_dir/<raw, mr, ...>_hits.png``; ``tools/test.py --show-dir`` installs this hook.

    Args:
        out_dir: folder of the sheets.
        num_queries: captions on a sheet, spread evenly over the split.
        topk: images a caption.
    """

    def __init__(self, out_dir: str, num_queries: int = 6, topk: int = 5) -> None:
        self.out_dir = Path(out_dir)
        self.num_queries = num_queries
        self.topk = topk

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw the sheets."""
        from galr_mm.visualization import Hit, draw_ranked_hits

        result, dataset = runner.test_loop.evaluator.result, runner.test_loop.dataloader.dataset
        if None in result.image_paths:
            print_log('no ranked hits are drawn: the samples of the test have no img_path', 'current', logging.WARNING)
            return
        queries = np.linspace(0, len(result.texts) - 1, min(self.num_queries, len(result.texts))).round().astype(int)
        found = proposals_of(dataset)
        for prefix in result.scores:
            indices, scores = result.top('t2i', queries.tolist(), self.topk, prefix)
            rows = []
            for query, images, values in zip(queries.tolist(), indices.tolist(), scores.tolist(), strict=True):
                hits = [
                    Hit(
                        result.image_paths[image],
                        value,
                        bool(result.positives[image, query]),
                        found.get(result.image_paths[image]),
                    )
                    for image, value in zip(images, values, strict=True)
                ]
                rows.append((str(result.texts[query]), hits))
            path = self.out_dir / f'{prefix or "raw"}_hits.png'
            draw_ranked_hits(rows, path, title=f'{prefix or "raw"} scores')
            print_log(f'ranked hits drawn to {path}', 'current')


def proposals_of(dataset: Any) -> dict[str | None, np.ndarray]:
    """Relative boxes (n, 4) of a data set's images by their path, for those that have proposals."""
    infos = map(dataset.get_data_info, range(len(dataset))) if hasattr(dataset, 'get_data_info') else ()
    return {info['img_path']: relative_boxes(info['detections']) for info in infos if 'detections' in info}


def relative_boxes(found: Detections, score_thr: float = 0.3) -> np.ndarray:
    """Boxes (n, 4) of the sure objects relative to the image's width and height."""
    return found.relative_boxes()[found.scores >= score_thr].numpy()
