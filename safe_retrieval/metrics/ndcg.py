"""Normalised discounted cumulative gain.

DCG@k = sum over ranks i = 1..k of grade_i / log2(i + 1), and nDCG@k = DCG@k / (DCG@k of the best possible ranking).

Source: K. Jarvelin and J. Kekalainen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002. The
gain is the grade itself, as in trec_eval and BEIR; the other custom, 2^grade - 1, gives the same for grades 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from safe_retrieval.metrics.judgements import Qrels, Run, check_cutoff, mean, top


def _dcg(grades: Sequence[float]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _ndcg_of_query(ranking: Sequence[str], grades: Mapping[str, float], k: int) -> float | None:
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k]
    if not ideal:
        return None
    gains = [max(grades.get(document, 0.0), 0.0) for document in top(ranking, k)]
    return _dcg(gains) / _dcg(ideal)


def ndcg_per_query(run: Run, qrels: Qrels, *, k: int = 10) -> dict[str, float]:
    """nDCG@k of every judged query, in the order of ``qrels``.

    Args:
        run: query id to document ids, best first. A judged query that is absent counts as answered with nothing: 0.
        qrels: query id to document id to grade. Negative grades earn nothing. A query without a relevant document has
            no nDCG and is left out; so is a query that stands in ``run`` alone.
        k: ranks looked at. Rankings shorter than ``k`` are fine; the ideal ranking has at most ``k`` documents.

    Returns:
        Query id to a value in [0, 1].

    Raises:
        InputError: ``k`` is below 1, or a ranking names a document twice within the first ``k``.
    """
    check_cutoff(k)
    values = ((query, _ndcg_of_query(run.get(query, ()), grades, k)) for query, grades in qrels.items())
    return {query: value for query, value in values if value is not None}


def ndcg(run: Run, qrels: Qrels, *, k: int = 10) -> float:
    """Mean nDCG@k over the judged queries; see :func:`ndcg_per_query`.

    Raises:
        InputError: as there, or no query has a relevant document.
    """
    return mean(ndcg_per_query(run, qrels, k=k), f"nDCG@{k}")
