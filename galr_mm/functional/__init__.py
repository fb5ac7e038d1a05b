from galr_mm.functional.bootstrap import Interval, paired_bootstrap
from galr_mm.functional.recall import chance_recall_at_k, recall_at_k, retrieval_ranks
from galr_mm.functional.rerank.from_features import Ranking, multivariate_rerank_from_features
from galr_mm.functional.rerank.multivariate import multivariate_rerank, product_rerank, reverse_rank_rerank

__all__ = [
    'Interval',
    'Ranking',
    'chance_recall_at_k',
    'multivariate_rerank',
    'multivariate_rerank_from_features',
    'paired_bootstrap',
    'product_rerank',
    'recall_at_k',
    'retrieval_ranks',
    'reverse_rank_rerank',
]
