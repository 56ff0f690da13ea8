"""What an audit says: figures with their intervals, comparisons, findings. Ids and hashes, never a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.metrics import Estimate, McNemar

SCHEMA_VERSION = 1
HEADLINE = 5
"""The cut-off of the figures that stand in front: about what a prompt of retrieved context holds."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One retriever's figures.

    Attributes:
        asked: number of probes asked, by kind.
        metrics: figure by name, such as ``harm@5``; ``None`` where it was not measured (no judged query, no gate, no
            verdict), which is not 0.
        hazards: ``harm@5`` and ``any_harm@5`` by hazard category, for categories with at least one request.
        encode_seconds: time for the encodings that the arm needs, as measured when they were made.
        search_seconds: time for finding passages.
    """

    asked: Mapping[ProbeKind, int]
    metrics: Mapping[str, Estimate | None]
    hazards: Mapping[Hazard, Mapping[str, Estimate | None]]
    encode_seconds: float
    search_seconds: float

    @property
    def queries_per_second(self) -> float:
        """Probes asked over encoding and search time together."""
        return sum(self.asked.values()) / max(self.encode_seconds + self.search_seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of an arm against the baseline's, on the queries that both were asked.

    Attributes:
        relative: arm / baseline - 1; ``None`` where the baseline is 0.
        difference: arm - baseline.
        test: McNemar's exact test (first: baseline); ``None`` where values are graded.
    """

    relative: Estimate | None
    difference: Estimate
    test: McNemar | None


@dataclass(frozen=True, slots=True)
class Selectivity:
    """Harm at equal usefulness: what is left of a harm reduction when the baseline is made as weak as the arm.

    Attributes:
        difference: harm@5 of the arm minus the baseline's harm at the cut-off where its benign recall is the arm's
            recall@5. Below 0: safer than weakness explains.
        matched_cutoff: that cut-off, interpolated between whole ones.
    """

    difference: Estimate
    matched_cutoff: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the baseline; a part is ``None`` where the probe set cannot support it."""

    baseline: str
    harm: MetricChange | None
    benign_recall: MetricChange | None
    selectivity: Selectivity | None


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """A harmful passage within the first five of an answer."""

    id: str
    rank: int
    score: float
    own: bool
    hazard: str
    text_sha256: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A harmful request that was handed harm."""

    arm: str
    query_id: str
    query_sha256: str
    hazard: Hazard
    passages: tuple[FoundPassage, ...]

    def to_json(self) -> dict[str, Any]:
        """One row of ``findings.jsonl``."""
        own_ranks = [passage.rank for passage in self.passages if passage.own]
        return {
            "arm": self.arm,
            "query_id": self.query_id,
            "query_sha256": self.query_sha256,
            "hazard": self.hazard.value,
            "own_rank": own_ranks[0] if own_ranks else None,
            "any_rank": self.passages[0].rank,
            "passages": [
                {
                    "id": passage.id,
                    "rank": passage.rank,
                    "score": round(passage.score, 6),
                    "own": passage.own,
                    "hazard": passage.hazard,
                    "text_sha256": passage.text_sha256,
                }
                for passage in self.passages
            ],
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A finished audit.

    Attributes:
        data: name, version, hash and counts of the probe set.
        cutoffs: the k of the harm and recall figures, ascending.
        arms: results in the order the targets were given.
        comparisons: every other arm against the baseline; empty where the baseline was not among the targets.
        provenance: JSON-serialisable record of what ran, on what, and when.
    """

    data: Mapping[str, Any]
    cutoffs: tuple[int, ...]
    seed: int
    arms: Mapping[str, ArmResult]
    comparisons: Mapping[str, Comparison]
    findings: tuple[Finding, ...]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The content of ``report.json``; docs/audit.md describes each field."""
        return {
            "schema_version": SCHEMA_VERSION,
            "data": dict(self.data),
            "cutoffs": list(self.cutoffs),
            "arms": {name: _arm_json(result) for name, result in self.arms.items()},
            "comparisons": {name: comparison_json(comparison) for name, comparison in self.comparisons.items()},
            "findings": len(self.findings),
            "provenance": {
                **self.provenance,
                "data": {key: self.data[key] for key in ("name", "version", "sha256")},
                "seed": self.seed,
            },
        }


def estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """A figure as reports write it; ``None`` stays ``None``."""
    if estimate is None:
        return None
    return {
        "value": round(estimate.value, 6),
        "low": round(estimate.low, 6),
        "high": round(estimate.high, 6),
        "n": estimate.n,
    }


def _arm_json(result: ArmResult) -> dict[str, Any]:
    figures: dict[str, Any] = {name: estimate_json(figure) for name, figure in result.metrics.items()}
    return figures | {
        "queries_per_second": round(result.queries_per_second, 3),
        "seconds": {"encode": round(result.encode_seconds, 3), "search": round(result.search_seconds, 3)},
        "asked": {kind.value: count for kind, count in result.asked.items()},
        "hazards": {
            hazard.value: {name: estimate_json(figure) for name, figure in figures_of_hazard.items()}
            for hazard, figures_of_hazard in result.hazards.items()
        },
    }


def _change_json(change: MetricChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    test = change.test
    return {
        "relative": estimate_json(change.relative),
        "difference": estimate_json(change.difference),
        "mcnemar": test and {"only_baseline": test.only_first, "only_arm": test.only_second, "p_value": test.p_value},
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as reports write it."""
    selectivity = comparison.selectivity
    return {
        "baseline": comparison.baseline,
        f"harm@{HEADLINE}": _change_json(comparison.harm),
        f"benign_recall@{HEADLINE}": _change_json(comparison.benign_recall),
        f"selectivity@{HEADLINE}": selectivity
        and {
            **(estimate_json(selectivity.difference) or {}),
            "matched_cutoff": round(selectivity.matched_cutoff, 3),
        },
    }
