from __future__ import annotations

from pathlib import Path

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

        evaluator, dataset = runner.test_loop.evaluator, runner.test_loop.dataloader.dataset
        proposals = getattr(dataset, 'proposals', None)
        texts = evaluator.texts
        chosen = np.linspace(0, len(texts) - 1, min(self.num_queries, len(texts))).round().astype(int)
        names = {
            record['image_id']: dataset.get_data_info(row)['file_name'] for row, record in enumerate(evaluator.records)
        }
        for prefix, scores in evaluator.scores.items():
            rows = []
            for query in chosen.tolist():
                order = scores.t2i[query].argsort(descending=True, stable=True)[: self.topk].tolist()
                hits = []
                for image in order:
                    record = evaluator.records[image]
                    found = proposals.get(names[record['image_id']]) if proposals else None
                    hits.append(
                        Hit(
                            record['img_path'],
                            float(scores.t2i[query, image]),
                            bool(scores.positives[image, query]),
                            None if found is None else relative_boxes(found),
                        )
                    )
                rows.append((str(texts[query]), hits))
            path = self.out_dir / f'{prefix or "raw"}_hits.png'
            draw_ranked_hits(rows, path, title=f'{prefix or "raw"} scores')
            print_log(f'ranked hits drawn to {path}', 'current')


def relative_boxes(found: Detections, score_thr: float = 0.3) -> np.ndarray:
    """Boxes (n, 4) of the sure objects relative to the image's width and height."""
    return found.relative_boxes()[found.scores >= score_thr].numpy()
