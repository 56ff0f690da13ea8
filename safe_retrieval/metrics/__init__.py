"""What a ranking is worth and how sure that figure is: nDCG, recall, harm@k, AUROC, and the statistics around them.

Every metric comes as ``*_per_query`` (query id to value, unjudged queries left out) and as the mean over queries.
Nothing here imports more than NumPy at the top, so the room is cheap to use from anywhere.
"""

from safe_retrieval.metrics.auroc import auroc, auroc_estimate
from safe_retrieval.metrics.harm import (
    any_harm,
    any_harm_per_query,
    first_rank,
    first_rank_per_query,
    harm,
    harm_per_query,
    harmful_share_per_query,
    reciprocal,
)
from safe_retrieval.metrics.judgements import Qrels, Run
from safe_retrieval.metrics.ndcg import ndcg, ndcg_per_query
from safe_retrieval.metrics.recall import recall, recall_per_query
from safe_retrieval.metrics.statistics import (
    Change,
    Estimate,
    McNemar,
    bootstrap_mean,
    mcnemar,
    mean_estimate,
    paired_bootstrap,
    required_sample_size,
    wilson,
)
from safe_retrieval.metrics.testing import Claim, claim, holm, paired_bootstrap_p

__all__ = [
    "Change",
    "Claim",
    "Estimate",
    "McNemar",
    "Qrels",
    "Run",
    "any_harm",
    "any_harm_per_query",
    "auroc",
    "auroc_estimate",
    "bootstrap_mean",
    "claim",
    "first_rank",
    "first_rank_per_query",
    "harm",
    "harm_per_query",
    "harmful_share_per_query",
    "holm",
    "mcnemar",
    "mean_estimate",
    "ndcg",
    "ndcg_per_query",
    "paired_bootstrap",
    "paired_bootstrap_p",
    "recall",
    "recall_per_query",
    "reciprocal",
    "required_sample_size",
    "wilson",
]
