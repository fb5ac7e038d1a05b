"""Registered re-rankers: callables RetrievalScores -> RetrievalScores, thin shells around ``galr_mm.functional``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from galr_mm.functional import (
    CSLS,
    DualSoftmax,
    HubCorrection,
    QueryBankNorm,
    correct_hubs,
    multivariate_scores,
    product_scores,
    rescore,
)
from galr_mm.functional.checks import check_switch
from galr_mm.functional.rerank.checks import check_options
from galr_mm.functional.rerank.column_statistics import NearZeroSumsWarning
from galr_mm.registry import RERANKERS
from galr_mm.structures import RerankedScores, RetrievalScores
from galr_mm.utils.logging import warn_once

Reranker = Callable[[RetrievalScores], RetrievalScores]
# what `rerank=<name>` stands for
PRESETS = {
    'mr': 'galr_mm.MultivariateRerank',
    'rr': 'galr_mm.ReverseRankRerank',
    'product': 'galr_mm.ProductRerank',
    'dsl': 'galr_mm.DualSoftmaxRerank',
    'qbnorm': 'galr_mm.QueryBankRerank',
    'csls': 'galr_mm.CSLSRerank',
}
RESERVED = ('raw', 'chance', 'i2t', 't2i', 'mR', 'bank')  # names in the table and in saved scores
OFF = (None, 'none', 'None', False)


class FormulaRerank:
    """Base of re-rankers that give the k best of each query new scores by a formula, in both directions.

    Called, it gives re-ranked matrices, as any re-ranker does; :meth:`rescore` gives the same without the matrices, and
    :class:`galr_mm.RetrievalEvaluator` takes that.

    Args:
        **options: ``k``, ``tail``, ``significance`` and the keyword arguments of the formula, as far as the class does
            not fix them; see :func:`galr_mm.functional.multivariate_rerank`.
    """

    formula: ClassVar[Callable[..., Tensor]]  # Candidates, options -> scores (Q, k)
    fixed: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        formula = list(inspect.signature(type(self).formula).parameters)[1:]
        known = [name for name in ('k', *formula, 'significance', 'tail') if name not in self.fixed]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise ValueError(f'{type(self).__name__} got {", ".join(unknown)}, expected {", ".join(known)}')
        try:  # a wrong value fails here, not after the test
            check_options(**options)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from error
        self.options = options
        settings = dict(k=30, **self.fixed) | options
        self._formula = partial(type(self).formula, **{n: v for n, v in settings.items() if n in formula})
        self._settings = {n: v for n, v in settings.items() if n not in formula}

    def rescore(self, scores: RetrievalScores) -> RerankedScores:
        """Re-rank both directions of the raw scores, without making matrices."""
        options = dict(self._settings, formula=self._formula, filler=scores.filler)
        return RerankedScores(
            scores,
            i2t=rescore(scores.i2t, reverse_similarity=scores.t2i, **options),
            t2i=rescore(scores.t2i, reverse_similarity=scores.i2t, **options),
        )

    def __call__(self, scores: RetrievalScores) -> RetrievalScores:
        """Re-rank both directions of the raw scores."""
        return self.rescore(scores).matrices()

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{k}={v!r}" for k, v in self.options.items())})'


@RERANKERS.register_module()
class MultivariateRerank(FormulaRerank):
    """:func:`galr_mm.functional.multivariate_rerank` in both directions; ``rerank=mr``.

    Args:
        **options: k, weights, decay, reverse, reverse_top, significance and tail of that function.

    Example:
        >>> import torch
        >>> raw = RetrievalScores.from_matrix(torch.tensor([[0.73, 0.75], [0.25, 1.0]]), captions_per_image=1)
        >>> raw.ranks['i2t'], MultivariateRerank(k=2)(raw).ranks['i2t']
        (tensor([1, 0]), tensor([0, 0]))
    """

    formula = staticmethod(multivariate_scores)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if options.get('weights', (1,))[0] == 0:
            self._settings['significance'] = 'off'  # nothing would come of it

    def rescore(self, scores: RetrievalScores) -> RerankedScores:
        """Re-rank both directions; column sums near zero are logged once, for both."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always', NearZeroSumsWarning)
            result = super().rescore(scores)
        for warning in caught:
            if issubclass(warning.category, NearZeroSumsWarning):
                warn_once('column sums near zero', f'{self!r}: {warning.message}')
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return result


@RERANKERS.register_module()
class ReverseRankRerank(FormulaRerank):
    """:func:`galr_mm.functional.reverse_rank_rerank` in both directions; ``rerank=rr``.

    Args:
        **options: k, decay and tail of that function.
    """

    formula = staticmethod(multivariate_scores)
    fixed = dict(weights=(0.0, 0.0, 1.0), reverse='ordinal', reverse_top=None, significance='off')


@RERANKERS.register_module()
class ProductRerank(FormulaRerank):
    """:func:`galr_mm.functional.product_rerank` in both directions; ``rerank=product``.

    Args:
        **options: k, decay, reverse and tail of that function.
    """

    formula = staticmethod(product_scores)
    fixed = dict(significance='off')


class HubRerank:
    """Base of re-rankers that correct the hubs of both directions.

    Args:
        **options: of the correction, and ``bank``, unless the correction always needs one: whether training queries
            stand in for the queries of the test, see :class:`galr_mm.RerankHook`.

    Attributes:
        needs_bank: whether it works only on scores with ``bank_i2t`` and ``bank_t2i``.
    """

    correction: ClassVar[type[HubCorrection]]

    def __init__(self, **options: Any) -> None:
        own = [field.name for field in fields(self.correction)]  # type: ignore[arg-type]  # all are dataclasses
        known = own if self.correction.needs_bank else [*own, 'bank']
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise ValueError(f'{type(self).__name__} got {", ".join(unknown)}, expected {", ".join(known)}')
        bank = options.get('bank', self.correction.needs_bank)
        try:
            check_switch('bank', bank)
            self._correction = self.correction(**{name: options[name] for name in own if name in options})
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from error
        self.needs_bank = bank
        self.options = options

    def __call__(self, scores: RetrievalScores) -> RetrievalScores:
        """Correct both directions of the raw scores.

        Raises:
            ValueError: when it needs a bank and the scores have none.
        """
        if self.needs_bank and (scores.bank_i2t is None or scores.bank_t2i is None):
            raise ValueError(
                f'{self!r} needs similarities of training queries, bank_i2t and bank_t2i, and the scores have none'
            )
        banks = (scores.bank_i2t, scores.bank_t2i) if self.needs_bank else (None, None)
        i2t, t2i = (
            correct_hubs(own, self._correction, bank, scores.filler)
            for own, bank in zip((scores.i2t, scores.t2i), banks, strict=True)
        )
        return RetrievalScores(i2t, t2i, scores.positives)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{k}={v!r}" for k, v in self.options.items())})'


@RERANKERS.register_module()
class DualSoftmaxRerank(HubRerank):
    """:func:`galr_mm.functional.dual_softmax_rerank` in both directions; ``rerank=dsl``.

    Transductive: it sees the other queries of the test, unless ``bank=True`` puts training queries in their place.

    Args:
        **options: scale of that function, and bank.

    Example:
        >>> import torch
        >>> raw = RetrievalScores.from_matrix(torch.tensor([[0.73, 0.75], [0.25, 1.0]]), captions_per_image=1)
        >>> raw.ranks['i2t'], DualSoftmaxRerank(scale=10)(raw).ranks['i2t']
        (tensor([1, 0]), tensor([0, 0]))
    """

    correction = DualSoftmax


@RERANKERS.register_module()
class QueryBankRerank(HubRerank):
    """:func:`galr_mm.functional.querybank_rerank` in both directions; ``rerank=qbnorm``.

    It sees no other query of the test: training images and captions are the bank, see :class:`galr_mm.RerankHook`.

    Args:
        **options: scale and dynamic of that function.
    """

    correction = QueryBankNorm


@RERANKERS.register_module()
class CSLSRerank(HubRerank):
    """:func:`galr_mm.functional.csls_rerank` in both directions; ``rerank=csls``.

    Transductive: it sees the other queries of the test, unless ``bank=True`` puts training queries in their place.

    Args:
        **options: k of that function, and bank.
    """

    correction = CSLS


def build_rerankers(rerank: Any, rerank_cfg: Mapping[str, Mapping] | None = None) -> dict[str, Reranker]:
    """Re-rankers by the prefix their metrics get.

    Args:
        rerank: None, 'none' or False: none. A preset ('mr', 'rr', 'product', 'dsl', 'qbnorm', 'csls'), a registered
            name, a ``dict(type=..., ...)``, or a list of these.
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
        if not isinstance(prefix, str) or not prefix or '/' in prefix or prefix in RESERVED:
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
