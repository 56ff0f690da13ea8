"""Recall: the share of a query's relevant documents that stand in the top k.

recall@k = |relevant and in the top k| / |relevant|. With one relevant document a query, as in open-domain question
answering, it is the share of queries whose document is found.

Source: C. Manning, P. Raghavan and H. Schutze, "Introduction to Information Retrieval", 2008, section 8.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safe_retrieval.metrics.judgements import Qrels, Run, check_cutoff, mean, relevant_ids, top


def _recall_of_query(ranking: Sequence[str], grades: Mapping[str, float], k: int) -> float | None:
    relevant = relevant_ids(grades)
    if not relevant:
        return None
    return len(relevant.intersection(top(ranking, k))) / len(relevant)


def recall_per_query(run: Run, qrels: Qrels, *, k: int) -> dict[str, float]:
    """recall@k of every judged query, in the order of ``qrels``.

    Args:
        run: query id to document ids, best first. A judged query that is absent counts as answered with nothing: 0.
        qrels: query id to document id to grade; above 0 is relevant. A query without a relevant document has no recall
            and is left out; so is a query that stands in ``run`` alone.
        k: ranks looked at; may exceed the length of a ranking. With more than ``k`` relevant documents 1 is
            out of reach.

    Returns:
        Query id to a value in [0, 1].

    Raises:
        InputError: ``k`` is below 1, or a ranking names a document twice within the first ``k``.
    """
    check_cutoff(k)
    values = ((query, _recall_of_query(run.get(query, ()), grades, k)) for query, grades in qrels.items())
    return {query: value for query, value in values if value is not None}


def recall(run: Run, qrels: Qrels, *, k: int) -> float:
    """Mean recall@k over the judged queries; see :func:`recall_per_query`.

    Raises:
        InputError: as there, or no query has a relevant document.
    """
    return mean(recall_per_query(run, qrels, k=k), f"recall@{k}")
