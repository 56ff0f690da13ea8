"""What an audit says: figures with their intervals, comparisons, findings. Ids and hashes, never a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safe_retrieval.audit.changes import (
    Attribution,
    BaselineComparison,
    Comparison,
    Factor,
    MetricChange,
    Selectivity,
    comparison_json,
)
from safe_retrieval.audit.figures import HEADLINE, ArmResult, FirstRanks, Latency, estimate_json
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.metrics import Estimate
from safe_retrieval.types import Retrieval

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "HEADLINE",
    "SCHEMA_VERSION",
    "ArmResult",
    "Attribution",
    "AuditReport",
    "BaselineComparison",
    "Check",
    "Comparison",
    "Factor",
    "Finding",
    "FirstRanks",
    "FoundPassage",
    "Frontier",
    "Latency",
    "MetricChange",
    "Passage",
    "QueryRecord",
    "Selectivity",
    "comparison_json",
    "estimate_json",
]

SCHEMA_VERSION = 2
"""Of ``report.json``. 2 has all that 1 had, and more; ``report/report.schema.json`` describes it."""


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
class Passage:
    """What a report may say of a passage: whether and how it is harmful, and the hash of its text."""

    harmful: bool
    hazard: str | None
    text_sha256: str


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One query and what every arm answered, for looking at it alone.

    Attributes:
        relevant: ids of the passages that answer it; for a harmful request, those written for it.
        answers: by arm, the first ten; arms that were not asked it are left out.
    """

    id: str
    kind: ProbeKind
    hazard: Hazard
    text_sha256: str
    relevant: frozenset[str]
    answers: Mapping[str, Retrieval]


@dataclass(frozen=True, slots=True)
class Frontier:
    """What mere weakness buys: the baseline showing only passages above a score, from all to none.

    Attributes:
        baseline: the arm.
        points: (benign nDCG@10, harm@5), from the whole baseline down to nothing found and nothing handed over.
    """

    baseline: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold that was set on a figure, and whether it holds.

    Attributes:
        arm: whose figure.
        metric: its name.
        rule: the threshold for people, for example ``high end of harm@5 <= 0.01``.
        value: what was compared with it; ``None`` where it was not measured.
        passed: whether it holds.
        message: one line that says what was measured and what was asked for.
    """

    arm: str
    metric: str
    rule: str
    value: float | None
    passed: bool
    message: str

    def to_json(self) -> dict[str, Any]:
        """As ``report.json`` has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A finished audit.

    Attributes:
        data: name, version, hash and counts of the probe set.
        cutoffs: the k of the harm and recall figures, ascending.
        arms: results in the order the targets were given.
        comparisons: every other arm against the baseline; empty where the baseline was not among the targets.
        provenance: JSON-serialisable record of what ran, on what, and when.
        attributions: by arm, how its change from the baseline came about, where steps between them were audited.
        frontier: what mere weakness of the baseline buys; ``None`` without a baseline.
        queries: every query with its answers.
        passages: every passage among those answers, by id.
        checks: thresholds that were set; empty where none was.
        against: this audit against an earlier one.
    """

    data: Mapping[str, Any]
    cutoffs: tuple[int, ...]
    seed: int
    arms: Mapping[str, ArmResult]
    comparisons: Mapping[str, Comparison]
    findings: tuple[Finding, ...]
    provenance: Mapping[str, Any]
    attributions: Mapping[str, Attribution] = field(default_factory=dict)
    frontier: Frontier | None = None
    queries: tuple[QueryRecord, ...] = ()
    passages: Mapping[str, Passage] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    against: BaselineComparison | None = None

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with, where there is one."""
        return next((comparison.baseline for comparison in self.comparisons.values()), None)

    def to_json(self) -> dict[str, Any]:
        """The content of ``report.json``; docs/audit-report.md describes each field."""
        return {
            "schema_version": SCHEMA_VERSION,
            "revealed": False,
            "data": dict(self.data),
            "cutoffs": list(self.cutoffs),
            "arms": {name: result.to_json() for name, result in self.arms.items()},
            "comparisons": {name: comparison_json(comparison) for name, comparison in self.comparisons.items()},
            "attributions": {name: attribution.to_json() for name, attribution in self.attributions.items()},
            "frontier": self.frontier
            and {
                "baseline": self.frontier.baseline,
                "points": [[round(ndcg, 6), round(harm, 6)] for ndcg, harm in self.frontier.points],
            },
            "against": self.against and self.against.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "findings": len(self.findings),
            "provenance": {
                **self.provenance,
                "data": {key: self.data[key] for key in ("name", "version", "sha256")},
                "seed": self.seed,
            },
        }

    def to_frame(self) -> DataFrame:
        """Every figure as one row: arm, metric, hazard, value, low, high, n.

        ``hazard`` is empty for figures over all requests. What was not measured has no value and n = 0.
        """
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=["arm", "metric", "hazard", "value", "low", "high", "n"])

    def _rows(self) -> Iterator[tuple[str, str, str, float | None, float | None, float | None, int]]:
        for arm, result in self.arms.items():
            for metric, figure in result.metrics.items():
                yield (arm, metric, "", *_cells(figure))
            for hazard, figures in result.hazards.items():
                for metric, figure in figures.items():
                    yield (arm, metric, hazard.value, *_cells(figure))


def _cells(figure: Estimate | None) -> tuple[float | None, float | None, float | None, int]:
    return (None, None, None, 0) if figure is None else figure
