"""Recall, re-ranking and means over windows as pure functions; they need torch and numpy only."""

from galr_mm.functional.bootstrap import Interval, bootstrap_over_seeds, mean_and_sd, paired_bootstrap
from galr_mm.functional.recall import chance_recall_at_k, recall_at_k, recall_from_ranks, retrieval_ranks
from galr_mm.functional.rerank.candidates import Candidates, find_candidates
from galr_mm.functional.rerank.csls import CSLS, csls_rerank
from galr_mm.functional.rerank.dual_softmax import DualSoftmax, dual_softmax_rerank
from galr_mm.functional.rerank.from_features import Ranking, multivariate_rerank_from_features
from galr_mm.functional.rerank.hubs import BankReranker, HubCorrection, correct_hubs, correct_hubs_from_features
from galr_mm.functional.rerank.multivariate import multivariate_rerank, multivariate_scores
from galr_mm.functional.rerank.order_preserving_shift import scatter_scores
from galr_mm.functional.rerank.product import product_rerank, product_scores
from galr_mm.functional.rerank.query_bank import QueryBankReranker, rerank_candidates
from galr_mm.functional.rerank.querybank_norm import QueryBankNorm, querybank_rerank
from galr_mm.functional.rerank.rescored import Rescored, reranked_ranks, rescore
from galr_mm.functional.rerank.reverse_rank import reverse_rank_rerank
from galr_mm.functional.window_mean import WindowMean

__all__ = [
    'CSLS',
    'BankReranker',
    'Candidates',
    'DualSoftmax',
    'HubCorrection',
    'Interval',
    'QueryBankNorm',
    'QueryBankReranker',
    'Ranking',
    'Rescored',
    'WindowMean',
    'bootstrap_over_seeds',
    'chance_recall_at_k',
    'correct_hubs',
    'correct_hubs_from_features',
    'csls_rerank',
    'dual_softmax_rerank',
    'find_candidates',
    'mean_and_sd',
    'multivariate_rerank',
    'multivariate_rerank_from_features',
    'multivariate_scores',
    'paired_bootstrap',
    'product_rerank',
    'product_scores',
    'querybank_rerank',
    'recall_at_k',
    'recall_from_ranks',
    'rerank_candidates',
    'reranked_ranks',
    'rescore',
    'retrieval_ranks',
    'reverse_rank_rerank',
    'scatter_scores',
]
