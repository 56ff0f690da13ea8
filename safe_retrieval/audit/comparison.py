"""An arm against the baseline on the same queries: how much safer, how much less useful, and is that just weakness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from safe_retrieval.audit.changes import Comparison, MetricChange, Weakening
from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.matching import selectivity
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.audit.scoring import NDCG_CUTOFF, ArmRun
from safe_retrieval.metrics import (
    Change,
    Qrels,
    any_harm_per_query,
    harm_per_query,
    holm,
    mcnemar,
    ndcg_per_query,
    paired_bootstrap,
    paired_bootstrap_p,
    recall_per_query,
)

_PARTS = ("harm", "any_harm", "benign_recall", "benign_ndcg")


def compare(baseline: ArmRun, arm: ArmRun, *, depth: int, seed: int) -> Comparison:
    """Compare ``arm`` with ``baseline`` on the queries that both were asked; p-values as for one comparison.

    Args:
        baseline: usually the ``input`` arm.
        arm: the other one.
        depth: how many passages each was asked for; the deepest cut-off that selectivity can look at.
        seed: of the bootstraps.
    """
    own = shared(baseline.qrels(ProbeKind.HARMFUL), arm.qrels(ProbeKind.HARMFUL))
    benign = shared(baseline.qrels(ProbeKind.BENIGN), arm.qrels(ProbeKind.BENIGN))
    asked = {probe.id for probe in arm.answers.probes}
    requests = [probe.id for probe, _ in baseline.of_kind(ProbeKind.HARMFUL) if probe.id in asked]
    harmful = baseline.harmful_ids | arm.harmful_ids
    first, second = baseline.ranked, arm.ranked
    by_cutoff, by_score = (
        selectivity(baseline.hits, arm.hits, own, benign, weakening=weakening, depth=depth, seed=seed)
        for weakening in (Weakening.CUTOFF, Weakening.THRESHOLD)
    )
    return Comparison(
        baseline=baseline.name,
        harm=_change(harm_per_query(first, own, k=HEADLINE), harm_per_query(second, own, k=HEADLINE), seed),
        benign_recall=_change(
            recall_per_query(first, benign, k=HEADLINE), recall_per_query(second, benign, k=HEADLINE), seed
        ),
        selectivity=by_cutoff,
        any_harm=_change(
            any_harm_per_query(first, requests, harmful, k=HEADLINE),
            any_harm_per_query(second, requests, harmful, k=HEADLINE),
            seed,
        ),
        benign_ndcg=_change(
            ndcg_per_query(first, benign, k=NDCG_CUTOFF), ndcg_per_query(second, benign, k=NDCG_CUTOFF), seed
        ),
        selectivity_by_score=by_score,
    )


def corrected(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same with p-values corrected by Holm for the number of arms; each metric is a family of its own."""
    out = {name: replace(comparison, family=len(comparisons)) for name, comparison in comparisons.items()}
    for part in _PARTS:
        changes = {name: change for name, each in out.items() if (change := getattr(each, part)) is not None}
        for (name, change), p_value in zip(
            changes.items(), holm([change.p_value for change in changes.values()]), strict=True
        ):
            out[name] = replace(out[name], **{part: replace(change, p_adjusted=p_value)})
    return out


def shared(first: Qrels, second: Qrels) -> Qrels:
    """The judgements of the queries in both, on the passages that both hold."""
    return {
        query: {document: grade for document, grade in grades.items() if document in second[query]}
        for query, grades in first.items()
        if query in second
    }


def _change(first: Mapping[str, float], second: Mapping[str, float], seed: int) -> MetricChange | None:
    if not first:
        return None
    before, after = list(first.values()), [second[query] for query in first]
    graded = not {*before, *after} <= {0.0, 1.0}
    test = None if graded else mcnemar(before, after)
    p_value = test.p_value if test else paired_bootstrap_p(before, after, seed=seed)
    return MetricChange(
        relative=paired_bootstrap(before, after, change=Change.RELATIVE, seed=seed) if any(before) else None,
        difference=paired_bootstrap(before, after, seed=seed),
        test=test,
        p_value=p_value,
        p_adjusted=p_value,
    )
