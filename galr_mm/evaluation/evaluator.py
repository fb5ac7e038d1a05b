from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor

from galr_mm.evaluation.rerankers import Reranker
from galr_mm.registry import EVALUATOR, METRICS
from galr_mm.structures import RetrievalScores
from galr_mm.text import caption_key
from galr_mm.utils.io import write_npz


@EVALUATOR.register_module()
class RetrievalEvaluator(Evaluator):
    """Scores a whole split from per-sample features, under mmengine's plain ValLoop and TestLoop.

    Samples are gathered over all processes by ``image_id`` and ``text_id``; those that only pad the last process's
    share count once. Captions of equal words get one feature, so that their ties are exact and the tie rule orders
    them, not the rounding of a batch. Every metric is computed from the raw scores, and from those of each re-ranker
    under its prefix, in one table.

    Args:
        metrics: configs of callables RetrievalScores -> dict, such as :class:`galr_mm.RecallAtK`.
        out_file: .npz that keeps i2t and t2i scores, raw and re-ranked (``mr/i2t``), ids and positives.

    Example:
        >>> val_evaluator = dict(type='galr_mm.RetrievalEvaluator', metrics=[dict(type='galr_mm.RecallAtK')])
    """

    def __init__(self, metrics: dict | Sequence, out_file: str | None = None) -> None:
        super().__init__([])
        metrics = [metrics] if isinstance(metrics, Mapping) else metrics
        self.metrics = [METRICS.build(m) if isinstance(m, Mapping) else m for m in metrics]
        self.out_file = out_file
        self.rerankers: dict[str, Reranker] = {}  # set by RerankHook
        self.scores: dict[str, RetrievalScores] = {}  # of the last evaluation, on the main process; '' is raw
        self.records: list[dict] = []  # the images of those scores, in row order
        self.texts: list = []  # the captions, in column order
        self._local: list[dict] = []

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Any = None) -> None:
        """Take what ``model(..., mode='predict')`` gave for a batch."""
        for sample in data_samples:
            if not isinstance(sample, BaseDataElement) or sample.get('image_id') is None:
                raise ValueError(
                    "RetrievalEvaluator needs a model whose mode='predict' gives a list of samples with image_id and "
                    'image_feat (D,), and with text_id and text_feat (n, D) for n captions, under ValLoop or TestLoop; '
                    f'got {type(sample).__name__}'
                )
            texts = sample.get('text', [])
            texts = list(texts) if isinstance(texts, (list, tuple)) else [texts]
            text_ids = sample.get('gt_text_id', sample.get('text_id', []))
            self._local.append(
                dict(
                    image_id=int(sample.image_id),
                    image_feat=_cpu(sample.get('image_feat')),
                    text_ids=[int(i) for i in (text_ids if isinstance(text_ids, (list, tuple)) else [text_ids])],
                    text_feat=_cpu(sample.get('text_feat')),
                    texts=texts,
                    img_path=sample.get('img_path'),
                )
            )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, score, re-rank and measure; all processes get the numbers.

        Args:
            size: images of the split; fewer that arrive are an error, more are padding.
        """
        local, self._local = self._local, []
        gathered = [record for part in all_gather_object(local) for record in part]
        result: list[Any] = [None]
        if is_main_process():
            result = [self._evaluate(gathered, size)]
        broadcast_object_list(result)
        return result[0]

    def _evaluate(self, gathered: list[dict], size: int) -> dict[str, float]:
        self.records = list({record['image_id']: record for record in gathered}.values())
        self.records.sort(key=lambda record: record['image_id'])
        if len(self.records) != size:
            raise RuntimeError(f'{len(self.records)} different images arrived, the data set holds {size}')
        raw, text_ids, self.texts = scores_of(self.records)
        self.scores = {'': raw} | {prefix: rerank(raw) for prefix, rerank in self.rerankers.items()}
        metrics = {}
        for prefix, scores in self.scores.items():
            for metric in self.metrics:
                metrics |= {f'{prefix}/{key}' if prefix else key: value for key, value in metric(scores).items()}
        print_log(self.report(metrics), 'current')
        if self.out_file:
            self.save(text_ids)
        return metrics

    def report(self, metrics: dict[str, float]) -> str:
        """The table: a row for the raw scores and one for each re-ranker, and what it was measured on."""
        meta, raw = self.dataset_meta or {}, self.scores['']
        split = f'split {meta["split"]!r} of {meta["ann_file"]}' if 'split' in meta else 'a split'
        names = [name for name in metrics if not any(name.startswith(f'{prefix}/') for prefix in self.rerankers)]
        rows = [('', names)]
        for prefix in self.scores:
            key = f'{prefix}/' if prefix else ''
            rows.append((prefix or 'raw', [f'{metrics[key + name]:.2f}' for name in names]))
        chance = {k: v for metric in self.metrics if hasattr(metric, 'chance') for k, v in metric.chance(raw).items()}
        if chance:
            rows.append(('chance', [f'{chance[name]:.2f}' if name in chance else '' for name in names]))
        width = max(len(label) for label, _ in rows)
        table = '\n'.join(f'{label:<{width}}  ' + '  '.join(f'{cell:>8}' for cell in cells) for label, cells in rows)
        rules = '; '.join(m.tie_rule for m in self.metrics if hasattr(m, 'tie_rule'))
        settings = ''.join(f'\n{prefix}: {reranker!r}' for prefix, reranker in self.rerankers.items())
        return (
            f'Retrieval on {split}: {raw.i2t.shape[0]} images, {raw.i2t.shape[1]} captions; percent; ties: {rules}'
            f'{settings}\n{table}'
        )

    def save(self, text_ids: list[int]) -> None:
        """Write scores of both directions, raw and re-ranked, with ids and positives to ``out_file``."""
        arrays = {
            f'{prefix}/{name}' if prefix else name: getattr(scores, name).contiguous().numpy()
            for prefix, scores in self.scores.items()
            for name in ('i2t', 't2i')
        }
        write_npz(
            self.out_file,
            **arrays,
            positives=self.scores[''].positives.numpy(),
            image_ids=[record['image_id'] for record in self.records],
            image_paths=[record['img_path'] or '' for record in self.records],
            text_ids=text_ids,
            texts=[text if isinstance(text, str) else '' for text in self.texts],
        )
        print_log(f'scores written to {self.out_file}', 'current')


def scores_of(records: list[dict]) -> tuple[RetrievalScores, list[int], list]:
    """Cosine scores of gathered records, and the text ids and the captions of the columns.

    Raises:
        ValueError: when there are no images or no captions to compare.
    """
    captions: dict[int, tuple[Tensor, Any]] = {}
    owners: list[tuple[int, int]] = []  # row, text id
    for row, record in enumerate(records):
        for position, text_id in enumerate(record['text_ids']):
            captions.setdefault(text_id, (record['text_feat'][position], record['texts'][position]))
            owners.append((row, text_id))
    if not captions or any(record['image_feat'] is None for record in records):
        raise ValueError(
            f'retrieval needs images and captions, got {sum(r["image_feat"] is not None for r in records)} images '
            f'and {len(captions)} captions'
        )
    text_ids = sorted(captions)
    first: dict[Any, Tensor] = {}
    text_feat, texts = [], []
    for text_id in text_ids:
        feat, text = captions[text_id]
        texts.append(text)
        text_feat.append(first.setdefault(caption_key(text), feat) if isinstance(text, str) else feat)
    column = {text_id: number for number, text_id in enumerate(text_ids)}
    positives = torch.zeros(len(records), len(text_ids), dtype=torch.bool)
    rows, ids = zip(*owners, strict=True)
    positives[list(rows), [column[i] for i in ids]] = True
    image_feat = torch.stack([record['image_feat'] for record in records])
    return RetrievalScores.from_features(image_feat, torch.stack(text_feat), positives), text_ids, texts


def _cpu(feat: Tensor | None) -> Tensor | None:
    return None if feat is None else feat.detach().float().cpu()
