"""Registered re-rankers: callables RetrievalScores -> RetrievalScores, thin shells around ``functional/rerank.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from galr_mm.functional import multivariate_rerank, product_rerank, reverse_rank_rerank
from galr_mm.registry import RERANKERS
from galr_mm.structures import RetrievalScores

Reranker = Callable[[RetrievalScores], RetrievalScores]
# what `rerank=<name>` stands for
PRESETS = {
    'mr': 'galr_mm.MultivariateRerank',
    'rr': 'galr_mm.ReverseRankRerank',
    'product': 'galr_mm.ProductRerank',
}
RESERVED = ('raw', 'chance', 'i2t', 't2i', 'mR')  # names in the table
OFF = (None, 'none', 'None', False)


class MatrixRerank:
    """Base of re-rankers that apply one function of a matrix (rows are queries) to both directions.

    Args:
        **options: keyword arguments of the function.
    """

    function: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        given = {'similarity', 'reverse_similarity', 'filler'} & options.keys()
        if given:
            raise ValueError(f'{", ".join(sorted(given))} cannot be set; it comes with the scores')
        try:  # a wrong option fails here, not after the test
            type(self).function(torch.eye(2), **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{type(self).__name__}({options}): {error}') from error
        self.options = options

    def __call__(self, scores: RetrievalScores) -> RetrievalScores:
        """Re-rank both directions of the raw scores."""
        function = type(self).function
        return replace(
            scores,
            i2t=function(scores.i2t, reverse_similarity=scores.t2i, filler=scores.filler, **self.options),
            t2i=function(scores.t2i, reverse_similarity=scores.i2t, filler=scores.filler, **self.options),
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{k}={v!r}" for k, v in self.options.items())})'


@RERANKERS.register_module()
class MultivariateRerank(MatrixRerank):
    """:func:`galr_mm.evaluation.multivariate_rerank` in both directions; ``rerank=mr``."""

    function = multivariate_rerank


@RERANKERS.register_module()
class ReverseRankRerank(MatrixRerank):
    """:func:`galr_mm.evaluation.reverse_rank_rerank` in both directions; ``rerank=rr``."""

    function = reverse_rank_rerank


@RERANKERS.register_module()
class ProductRerank(MatrixRerank):
    """:func:`galr_mm.evaluation.product_rerank` in both directions; ``rerank=product``."""

    function = product_rerank


def build_rerankers(rerank: Any, rerank_cfg: Mapping[str, Mapping] | None = None) -> dict[str, Reranker]:
    """Re-rankers by the prefix their metrics get.

    Args:
        rerank: None, 'none' or False: none. A preset ('mr', 'rr', 'product'), a registered name, a
            ``dict(type=..., ...)``, or a list of these.
        rerank_cfg: parameters of presets, e.g. ``dict(mr=dict(k=20))``.

    Raises:
        KeyError: for a name, in either argument, that is neither a preset nor registered; lists what there is.
        ValueError: for another kind of value, a name given twice, or parameters the re-ranker does not take.

    >>> build_rerankers('mr', dict(mr=dict(k=20)))
    {'mr': MultivariateRerank(k=20)}
    """
    if rerank in OFF:
        return {}
    if rerank_cfg is not None and not (
        isinstance(rerank_cfg, Mapping) and all(isinstance(options, Mapping) for options in rerank_cfg.values())
    ):
        raise ValueError(f'rerank_cfg is {rerank_cfg!r}, expected parameters by name, such as dict(mr=dict(k=20))')
    unknown = [name for name in rerank_cfg or {} if name not in PRESETS and RERANKERS.get(name) is None]
    if unknown:
        raise KeyError(f'rerank_cfg has {unknown}, expected {", ".join(PRESETS)} or a registered name')
    entries = rerank if isinstance(rerank, (list, tuple)) else [rerank]
    built: dict[str, Reranker] = {}
    for entry in entries:
        if isinstance(entry, str):
            prefix, config = entry, {'type': PRESETS.get(entry, entry), **(rerank_cfg or {}).get(entry, {})}
        elif isinstance(entry, Mapping) and isinstance(entry.get('type'), str):
            config = dict(entry)
            prefix = config.pop('prefix', next((p for p, t in PRESETS.items() if t == entry['type']), entry['type']))
        else:
            raise ValueError(f'rerank is {rerank!r}, expected a name, dict(type=...), or a list of these')
        if (
            not isinstance(prefix, str)
            or not prefix
            or '/' in prefix
            or prefix in ('raw', 'chance', 'i2t', 't2i', 'mR')
        ):
            raise ValueError(f'the prefix {prefix!r} of a re-ranker is empty, holds a slash or is taken')
        if prefix in built:
            raise ValueError(f'rerank names {prefix!r} twice; give one a dict with another prefix=...')
        # looked up here, not through RERANKERS.build, which would search the registry of the default scope
        reranker = RERANKERS.get(config['type'])
        if reranker is None:
            raise KeyError(
                f'rerank={config["type"]!r} is not known; there are {", ".join(PRESETS)} and the registered '
                f'{", ".join(sorted(RERANKERS.module_dict))}'
            )
        config.pop('type')
        built[prefix] = reranker(**config)
    return built
