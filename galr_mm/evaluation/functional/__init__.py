from galr_mm.evaluation.functional.recall import chance_recall_at_k, recall_at_k, retrieval_ranks
from galr_mm.evaluation.functional.rerank import multivariate_rerank, product_rerank, reverse_rank_rerank

__all__ = [
    'chance_recall_at_k',
    'multivariate_rerank',
    'product_rerank',
    'recall_at_k',
    'retrieval_ranks',
    'reverse_rank_rerank',
]
