from galr_mm.evaluation.functional.recall import recall_at_k, retrieval_ranks
from galr_mm.evaluation.functional.rerank import multivariate_rerank, product_rerank, reverse_rank_rerank

__all__ = ['multivariate_rerank', 'product_rerank', 'recall_at_k', 'retrieval_ranks', 'reverse_rank_rerank']
