"""Re-ranking of what a search found, by a bank of other queries that the same candidates are compared with.

What MR and the hub corrections ask of a gallery item is a matter of its own column, the item against all queries. So
the vectors of the candidates are enough, whatever found them, and the result is that of the whole gallery.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from galr_mm.functional import CSLS, BankReranker, DualSoftmax, QueryBankNorm, rerank_candidates
from galr_mm.functional.checks import check_whole
from galr_mm.utils.io import write_npz

NAME = 'bank.npz'
CORRECTIONS = dict(dsl=DualSoftmax, qbnorm=QueryBankNorm, csls=CSLS)
FIXED: dict[str, dict[str, Any]] = dict(mr={}, rr=dict(weights=(0.0, 0.0, 1.0), significance='off'))
METHODS = (*FIXED, *CORRECTIONS)


class Bank(NamedTuple):
    """L2-normalized vectors of captions (M, D) and images (P, D), such as those of a training split."""

    text: np.ndarray
    image: np.ndarray

    def save(self, path: str | Path, fingerprint: str) -> None:
        """Write an .npz that says which model made it."""
        write_npz(path, text=self.text, image=self.image, fingerprint=np.array(fingerprint))

    @classmethod
    def load(cls, path: str | Path, fingerprint: str, dim: int) -> Bank:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: when it is not there.
            ValueError: when it is another file, of another model, or of vectors of another width; names it.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f'no query bank at {path}; make one of the captions of a training split: '
                'archive.py bank INDEX CAPTIONS.json'
            )
        try:
            with np.load(path, allow_pickle=False) as arrays:
                text, image, theirs = arrays['text'], arrays['image'], str(arrays['fingerprint'])
        except Exception as error:  # a broken file makes its reader raise anything
            raise ValueError(f'{path} is not a query bank: {type(error).__name__}: {error}') from error
        if theirs != fingerprint:
            raise ValueError(
                f'{path} is a query bank of another model, fingerprint {theirs[:12]}, expected {fingerprint[:12]}'
            )
        for name, vectors in dict(text=text, image=image).items():
            if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != 'f':
                raise ValueError(
                    f'{path} is not a query bank of this model: {name} is {vectors.dtype} {vectors.shape}, expected '
                    f'floating-point vectors (n, {dim})'
                )
        if not (np.isfinite(text).all() and np.isfinite(image).all()):
            raise ValueError(f'{path} holds NaN or infinity')
        return cls(text, image)


class CandidateReranker:
    """Re-ranks the candidates of one query.

    Args:
        rerank: 'mr', 'rr', 'dsl', 'qbnorm', 'csls', or ``dict(type=..., k=30, ...)`` with ``k``, how many candidates
            are re-ranked, and the options of :func:`galr_mm.functional.rerank_candidates` or of the correction.

    Raises:
        ValueError: for another name or an option that it does not take.
        TypeError: for what is neither a name nor options.
    """

    def __init__(self, rerank: str | Mapping[str, Any]) -> None:
        if not isinstance(rerank, (str, Mapping)):
            raise TypeError(f'rerank is {rerank!r}, expected one of {", ".join(METHODS)}, or dict(type=..., k=30)')
        options: dict[str, Any] = dict(type=rerank) if isinstance(rerank, str) else dict(rerank)
        self.method = str(options.pop('type', None))
        if self.method not in METHODS:
            raise ValueError(f'rerank is {rerank!r}, expected one of {", ".join(METHODS)}')
        k = options.pop('k', 30)
        check_whole('k', k)
        self.k = int(k)
        if options.get('dynamic'):
            raise ValueError('dynamic qbnorm asks for the best of the whole archive of each query of the bank')
        self.options = options
        try:  # a wrong option fails here
            self(np.eye(2), np.eye(2)[0], np.eye(2))
        except TypeError as error:
            raise ValueError(f'rerank is {rerank!r}: {error}') from error

    def __call__(self, bank: np.ndarray, query: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The new order of candidates, and their scores in it.

        Args:
            bank: (M, D), queries in the direction that is asked.
            query: (D,).
            vectors: (k, D), of the candidates by rising row, by which equal scores are ordered.
        """
        if self.method in CORRECTIONS:
            correction = CORRECTIONS[self.method](**self.options)
            ranking = BankReranker(bank, vectors, correction, len(vectors))(query)
        else:
            ranking = rerank_candidates(bank, query, vectors, **FIXED[self.method] | self.options)
        scores = np.empty(len(vectors))
        scores[ranking.indices.numpy()] = ranking.scores.double().numpy()
        return best_first(vectors, scores, self.method in CORRECTIONS)


def best_first(vectors: np.ndarray, scores: np.ndarray, equal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Candidates by descending score, equal vectors by their row: their products may differ in the last bit.

    Args:
        vectors: (k, D), by rising row.
        scores: float64 (k,), one for each vector.
        equal: whether equal vectors have equal scores, as where a score depends on the vector alone. Otherwise the
            better of their scores go to the lower rows.

    Returns:
        Positions among the candidates (k,), and their scores (k,).
    """
    scores = scores.copy()
    _, group, count = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    for number in np.flatnonzero(count > 1):
        same = np.flatnonzero(group.reshape(-1) == number)
        scores[same] = scores[same].max() if equal else -np.sort(-scores[same])
    order = np.argsort(-scores, kind='stable')
    return order, scores[order]
