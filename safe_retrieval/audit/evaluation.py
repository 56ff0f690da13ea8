"""From what every target returned to a report: figures, comparisons, attribution, findings, each query by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safe_retrieval.audit.attribution import Ladder, attribute
from safe_retrieval.audit.comparison import compare, corrected
from safe_retrieval.audit.hashes import text_sha256
from safe_retrieval.audit.matching import weakness_curve
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.results import AuditReport, Frontier, Passage, QueryRecord
from safe_retrieval.audit.scoring import ArmRun, findings, score
from safe_retrieval.types import Retrieval

SHOWN = 10
"""Passages a query and arm that a report lists: those that nDCG@10 looks at."""


def evaluate(
    probe_set: ProbeSet,
    runs: Mapping[str, ArmRun],
    *,
    cutoffs: Sequence[int],
    baseline: str,
    ladders: Mapping[str, Ladder],
    seed: int,
    provenance: Mapping[str, Any],
) -> AuditReport:
    """Score runs that were checked by :func:`~safe_retrieval.audit.scoring.ask`.

    Args:
        probe_set: what was asked.
        runs: by target, in the order of the report, each asked for at least the deepest cut-off.
        cutoffs: k of harm and recall, ascending.
        baseline: name of the run that the others are compared with; no comparison where it is not among them.
        ladders: by target, the steps from the baseline to it.
        seed: of every bootstrap.
        provenance: what ran, on what, and when.
    """
    reference = runs.get(baseline)
    depth = max(cutoffs)
    comparisons = (
        {name: compare(reference, run, depth=depth, seed=seed) for name, run in runs.items() if name != baseline}
        if reference
        else {}
    )
    taken_apart = {arm: attribute(runs, baseline, ladder, seed=seed) for arm, ladder in ladders.items()}
    queries = tuple(_queries(probe_set, runs))
    return AuditReport(
        data=_describe(probe_set),
        cutoffs=tuple(cutoffs),
        seed=seed,
        arms={name: score(run, cutoffs=cutoffs, seed=seed) for name, run in runs.items()},
        comparisons=corrected(comparisons),
        findings=tuple(finding for run in runs.values() for finding in findings(run)),
        provenance=provenance,
        attributions={arm: attribution for arm, attribution in taken_apart.items() if attribution},
        frontier=_frontier(reference) if reference and comparisons else None,
        queries=queries,
        passages=_passages(probe_set, runs, queries),
    )


def _frontier(baseline: ArmRun) -> Frontier | None:
    points = weakness_curve(baseline.hits, baseline.qrels(ProbeKind.HARMFUL), baseline.qrels(ProbeKind.BENIGN))
    return Frontier(baseline.name, points) if points else None


def _queries(probe_set: ProbeSet, runs: Mapping[str, ArmRun]) -> Iterable[QueryRecord]:
    answers: dict[str, dict[str, Retrieval]] = {probe.id: {} for probe in probe_set.queries}
    for name, run in runs.items():
        for probe, retrieval in zip(run.answers.probes, run.answers.retrievals, strict=True):
            shown = Retrieval(retrieval.hits[:SHOWN], retrieval.refusal, retrieval.flagged)
            answers[probe.id][name] = shown
    for probe in probe_set.queries:
        grades = probe_set.qrels.get(probe.id, {})
        relevant = frozenset(document for document, grade in grades.items() if grade > 0)
        yield QueryRecord(probe.id, probe.kind, probe.hazard, text_sha256(probe.text), relevant, answers[probe.id])


def _passages(probe_set: ProbeSet, runs: Mapping[str, ArmRun], queries: Iterable[QueryRecord]) -> dict[str, Passage]:
    shown = {hit.id for query in queries for answer in query.answers.values() for hit in answer.hits}
    own = {each: passage for run in runs.values() for each, passage in run.answers.own.items() if each in shown}
    return own | {
        document.id: Passage(
            bool(document.metadata["harmful"]), document.metadata.get("hazard"), text_sha256(document.text)
        )
        for document in probe_set.documents
        if document.id in shown
    }


def _describe(probe_set: ProbeSet) -> dict[str, Any]:
    return {
        "name": probe_set.name,
        "version": probe_set.version,
        "sha256": probe_set.sha256,
        "documents": len(probe_set.documents),
        "harmful_documents": len(probe_set.harmful_ids),
        "queries": {kind.value: len(probe_set.of_kind(kind)) for kind in ProbeKind},
    }
