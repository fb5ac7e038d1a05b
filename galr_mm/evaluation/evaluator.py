from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor

from galr_mm.evaluation.gathering import evaluate_gathered, record_of, result_of
from galr_mm.evaluation.metrics import RecallAtK
from galr_mm.evaluation.rerankers import FormulaRerank, Reranker
from galr_mm.registry import EVALUATOR, METRICS
from galr_mm.structures import QueryBank, RerankedScores, RetrievalResult, RetrievalScores
from galr_mm.utils.io import write_npz


@EVALUATOR.register_module()
class RetrievalEvaluator(Evaluator):
    """Scores a whole split from per-sample features, under mmengine's plain ValLoop and TestLoop.

    Samples are gathered over all processes by ``image_id`` and ``text_id``, also of concatenated data sets; those that
    only pad the last process's part count once. Captions that the text encoder takes for the same (``text_key`` of a
    sample, the caption itself where there is none) get one feature, so that their ties are exact and the tie rule
    orders them. Every metric is computed from the ranks of the raw scores, and from those of each re-ranker under its
    prefix, in one table.

    Args:
        metrics: configs of callables that take ranks, ``dict(i2t=(I,), t2i=(T,))``, and give values by name, such as
            :class:`galr_mm.RecallAtK`.
        out_file: .npz that keeps i2t and t2i scores, raw, of a query bank (``bank/i2t``) and re-ranked (``mr/i2t``),
            ids and positives.

    Attributes:
        result: :class:`~galr_mm.structures.RetrievalResult` of the last evaluation, on the main process.

    Example:
        >>> import torch
        >>> from mmengine.structures import BaseDataElement
        >>> evaluator = RetrievalEvaluator(metrics=[dict(type='galr_mm.RecallAtK', topk=(1,))])
        >>> for i, text in enumerate(['a river', 'a road']):
        ...     feat = torch.eye(2)[i]
        ...     evaluator.process([BaseDataElement(
        ...         image_id=i, image_feat=feat, text_id=[i], text=[text], text_feat=feat[None])])
        >>> evaluator.evaluate(size=2)
        {'i2t/R@1': 100.0, 't2i/R@1': 100.0, 'mR': 100.0}
    """

    def __init__(self, metrics: dict | Sequence, out_file: str | None = None) -> None:
        super().__init__([])
        metrics = [metrics] if isinstance(metrics, Mapping) else metrics
        self.metrics: list[Callable[[Mapping[str, Tensor]], dict[str, float]]] = [
            METRICS.build(m) if isinstance(m, Mapping) else m for m in metrics
        ]
        self.out_file = out_file
        self.rerankers: dict[str, Reranker] = {}  # set by RerankHook
        self.query_bank: Callable[[], QueryBank] | None = None  # so is this, where a re-ranker wants a bank
        self.result: RetrievalResult | None = None
        self._records: list[dict] = []

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Any = None) -> None:
        """Take what ``model(..., mode='predict')`` gave for a batch."""
        self._records += [record_of(sample) for sample in data_samples]

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, score, re-rank and measure; all processes get the metrics.

        Args:
            size: images of the split; fewer that arrive are an error, more are padding.
        """
        records, self._records = self._records, []
        bank = self.query_bank() if self.query_bank is not None else None  # on all processes
        return evaluate_gathered(records, size, partial(self._measure, bank=bank))

    def _measure(self, records: list[dict], bank: QueryBank | None) -> dict[str, float]:
        result = result_of(records, bank)
        reranked: dict[str, RetrievalScores | RerankedScores] = {}
        for prefix, rerank in self.rerankers.items():
            scores = rerank.rescore(result.raw) if isinstance(rerank, FormulaRerank) else rerank(result.raw)
            if not isinstance(scores, (RetrievalScores, RerankedScores)):
                raise TypeError(f'{rerank!r} gave a {type(scores).__name__}, expected RetrievalScores')
            reranked[prefix] = scores
        self.result = result = replace(result, scores={**result.scores, **reranked})
        metrics: dict[str, float] = {}
        for prefix, ranks in result.ranks.items():
            for metric in self.metrics:
                metrics |= {f'{prefix}/{key}' if prefix else key: value for key, value in metric(ranks).items()}
        print_log(self.report(result, metrics), 'current')
        if self.out_file:
            save(result, self.out_file)
        return metrics

    def report(self, result: RetrievalResult, metrics: dict[str, float]) -> str:
        """The table: a row for the raw scores and one for each re-ranker, and what it was measured on."""
        meta, positives = self.dataset_meta or {}, result.positives
        split = f'split {meta["split"]!r} of {meta["ann_file"]}' if 'split' in meta else 'a split'
        if len(result.sources) > 1:  # the meta information of concatenated data sets is that of the first
            split = ' and '.join(result.sources)
        names = [name for name in metrics if not any(name.startswith(f'{prefix}/') for prefix in self.rerankers)]
        rows = [('', names)]
        for prefix in result.scores:
            key = f'{prefix}/' if prefix else ''
            rows.append((prefix or 'raw', [f'{metrics[key + name]:.2f}' for name in names]))
        recalls = [metric for metric in self.metrics if isinstance(metric, RecallAtK)]
        chance = {name: value for recall in recalls for name, value in recall.chance(positives).items()}
        if chance:
            rows.append(('chance', [f'{chance[name]:.2f}' if name in chance else '' for name in names]))
        width = max(len(label) for label, _ in rows)
        table = '\n'.join(f'{label:<{width}}  ' + '  '.join(f'{cell:>8}' for cell in cells) for label, cells in rows)
        settings = ''.join(f'\n{prefix}: {reranker!r}' for prefix, reranker in self.rerankers.items())
        return (
            f'Retrieval on {split}: {len(positives)} images, {positives.shape[1]} captions; percent; ties: '
            f'{RecallAtK.tie_rule}{settings}\n{table}'
        )


def save(result: RetrievalResult, path: str) -> None:
    """Write the scores of both directions, raw, of a query bank and re-ranked, with ids and positives to an .npz."""
    arrays = {
        f'{prefix}/{name}' if prefix else name: getattr(matrices, name).contiguous().numpy()
        for prefix, matrices in ((prefix, scores.matrices()) for prefix, scores in result.scores.items())
        for name in ('i2t', 't2i')
    }
    for name in ('i2t', 't2i'):
        bank = getattr(result.raw, f'bank_{name}')
        if bank is not None:
            arrays[f'bank/{name}'] = bank.numpy()
    write_npz(
        path,
        **arrays,
        positives=result.positives.numpy(),
        image_ids=result.image_ids,
        image_paths=[image_path or '' for image_path in result.image_paths],
        text_ids=result.text_ids,
        texts=[text if isinstance(text, str) else '' for text in result.texts],
    )
    print_log(f'scores written to {path}', 'current')
