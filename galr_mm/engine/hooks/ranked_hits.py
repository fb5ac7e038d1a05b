from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from galr_mm.registry import HOOKS
from galr_mm.structures import Detections, RetrievalResult
from galr_mm.utils.wrappers import unwrapped

if TYPE_CHECKING:  # matplotlib is loaded where something is drawn
    from galr_mm.visualization import Hit


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
        from galr_mm.visualization import draw_ranked_hits

        result, dataset = runner.test_loop.evaluator.result, runner.test_loop.dataloader.dataset
        if None in result.image_paths:
            print_log('no ranked hits are drawn: the samples of the test have no img_path', 'current', logging.WARNING)
            return
        queries = np.linspace(0, len(result.texts) - 1, min(self.num_queries, len(result.texts))).round().astype(int)
        # a model without a local branch has not seen them
        found = proposals_of(dataset) if getattr(unwrapped(runner.model), 'local', None) is not None else {}
        for prefix in result.scores:
            rows = [(str(result.texts[query]), self._hits(result, query, prefix, found)) for query in queries.tolist()]
            path = self.out_dir / f'{prefix or "raw"}_hits.png'
            draw_ranked_hits(rows, path, title=f'{prefix or "raw"} scores')
            print_log(f'ranked hits drawn to {path}', 'current')

    def _hits(self, result: RetrievalResult, query: int, prefix: str, found: dict[str | None, np.ndarray]) -> list[Hit]:
        """The best images of a caption, and after them its best positive where that is not among them."""
        from galr_mm.visualization import Hit

        order, scores = (row[0].tolist() for row in result.top('t2i', [query], len(result.image_ids), prefix))
        positive = [bool(result.positives[image, query]) for image in order]
        shown = list(range(min(self.topk, len(order))))
        if True in positive and positive.index(True) >= self.topk:
            shown.append(positive.index(True))
        hits = []
        for place in shown:
            path = str(result.image_paths[order[place]])
            boxes = found.get(path)
            if place < self.topk:
                hits.append(Hit(path, scores[place], positive[place], boxes))
            else:
                hits.append(Hit(path, None, True, boxes, rank=place + 1))
        return hits


def proposals_of(dataset: Any) -> dict[str | None, np.ndarray]:
    """Relative boxes (n, 4) of a data set's images by their path, for those that have proposals."""
    infos = map(dataset.get_data_info, range(len(dataset))) if hasattr(dataset, 'get_data_info') else ()
    return {info['img_path']: relative_boxes(info['detections']) for info in infos if 'detections' in info}


def relative_boxes(found: Detections) -> np.ndarray:
    """Boxes (n, 4) of the sure objects relative to the image's width and height."""
    from galr_mm.visualization.ranked_hits import SURE

    return found.relative_boxes()[found.scores >= SURE].numpy()
