from galr_mm.evaluation.evaluator import RetrievalEvaluator
from galr_mm.evaluation.metrics import RecallAtK
from galr_mm.evaluation.rerankers import (
    FormulaRerank,
    MultivariateRerank,
    ProductRerank,
    ReverseRankRerank,
    build_rerankers,
)
from galr_mm.functional import (
    QueryBankReranker,
    chance_recall_at_k,
    multivariate_rerank,
    multivariate_rerank_from_features,
    paired_bootstrap,
    product_rerank,
    recall_at_k,
    retrieval_ranks,
    reverse_rank_rerank,
)

__all__ = [
    'FormulaRerank',
    'MultivariateRerank',
    'ProductRerank',
    'QueryBankReranker',
    'RecallAtK',
    'RetrievalEvaluator',
    'ReverseRankRerank',
    'build_rerankers',
    'chance_recall_at_k',
    'multivariate_rerank',
    'multivariate_rerank_from_features',
    'paired_bootstrap',
    'product_rerank',
    'recall_at_k',
    'retrieval_ranks',
    'reverse_rank_rerank',
]
