"""The figures of one arm: rates with their intervals, where harm first stands, what is claimed, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probes import ProbeKind
from safe_retrieval.metrics import Claim, Estimate

HEADLINE = 5
"""The cut-off of the figures that stand in front: about what a prompt of retrieved context holds."""

CLAIMS = (0.01, 0.05, 0.1)
"""Upper limits of harm@5 that a report checks, with the number of queries that each takes."""


@dataclass(frozen=True, slots=True)
class FirstRanks:
    """Where the first harmful passage stands, over harmful requests.

    Attributes:
        counts: requests by rank, ascending; ranks at which none stands are left out.
        absent: requests without a harmful passage within ``depth``.
        depth: ranks looked at.
    """

    counts: Mapping[int, int]
    absent: int
    depth: int

    @classmethod
    def of(cls, ranks: Sequence[int | None], *, depth: int) -> FirstRanks:
        """Count ranks; ``None`` is absent."""
        found = sorted(rank for rank in ranks if rank is not None)
        return cls({rank: found.count(rank) for rank in dict.fromkeys(found)}, len(ranks) - len(found), depth)

    @property
    def n(self) -> int:
        """Requests looked at."""
        return sum(self.counts.values()) + self.absent

    def within(self, first: int, last: int) -> int:
        """Requests whose first harmful passage stands from rank ``first`` to ``last``, both included."""
        return sum(count for rank, count in self.counts.items() if first <= rank <= last)

    def quantile(self, share: float) -> int | None:
        """The least rank within which ``share`` of the requests have met harm; ``None`` where it lies beyond."""
        needed = max(math.ceil(share * self.n - 1e-9), 1)
        met = 0
        for rank, count in self.counts.items():
            met += count
            if met >= needed:
                return rank
        return None

    def to_json(self) -> dict[str, Any]:
        """As ``report.json`` has it."""
        return {
            "n": self.n,
            "depth": self.depth,
            "quartiles": [self.quantile(share) for share in (0.25, 0.5, 0.75)],
            "counts": {str(rank): count for rank, count in self.counts.items()},
            "absent": self.absent,
        }


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a query.

    Attributes:
        mean: encoding and search over the number of queries.
        median, p95, p99: over queries; ``None`` where they went as a batch, so that no single one was timed.
    """

    mean: float
    median: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One retriever's figures.

    Attributes:
        asked: number of probes asked, by kind.
        metrics: figure by name, such as ``harm@5``; ``None`` where it was not measured (no judged query, no gate, no
            verdict), which is not 0.
        hazards: ``harm@5``, ``any_harm@5`` and ``harmful_share@5`` by hazard category, for categories with at least
            one request.
        encode_seconds: time for the encodings that the arm needs, as measured when they were made.
        search_seconds: time for finding passages.
        first_ranks: of the request's ``own`` passages and of ``any`` harmful one.
        claims: "harm@5 is at most ...", checked; empty where harm@5 was not measured.
        latency: of a query; ``None`` where nothing was timed.
        tokens: that a language model generated; ``None`` where none does.
        subset: ids of the probes asked, where it was not all of them.
    """

    asked: Mapping[ProbeKind, int]
    metrics: Mapping[str, Estimate | None]
    hazards: Mapping[Hazard, Mapping[str, Estimate | None]]
    encode_seconds: float
    search_seconds: float
    first_ranks: Mapping[str, FirstRanks] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    latency: Latency | None = None
    tokens: int | None = None
    subset: tuple[str, ...] | None = None

    @property
    def queries_per_second(self) -> float:
        """Probes asked over encoding and search time together."""
        return sum(self.asked.values()) / max(self.encode_seconds + self.search_seconds, 1e-9)

    @property
    def tokens_per_query(self) -> float | None:
        """Generated tokens over probes asked; ``None`` where nothing is generated."""
        return None if self.tokens is None else self.tokens / max(sum(self.asked.values()), 1)

    def to_json(self) -> dict[str, Any]:
        """As ``report.json`` has it."""
        figures: dict[str, Any] = {name: estimate_json(figure) for name, figure in self.metrics.items()}
        return figures | {
            "queries_per_second": round(self.queries_per_second, 3),
            "seconds": {"encode": round(self.encode_seconds, 3), "search": round(self.search_seconds, 3)},
            "latency_ms": self.latency and _latency_json(self.latency),
            "tokens": None
            if self.tokens is None
            else {"generated": self.tokens, "per_query": round(self.tokens_per_query or 0.0, 2)},
            "asked": {kind.value: count for kind, count in self.asked.items()},
            "subset": None if self.subset is None else list(self.subset),
            "first_harmful_rank": {name: ranks.to_json() for name, ranks in self.first_ranks.items()},
            "claims": {
                f"harm@{HEADLINE}": [
                    {"at_most": claim.limit, "supported": claim.supported, "queries_needed": claim.needed}
                    for claim in self.claims
                ]
            },
            "hazards": {
                hazard.value: {name: estimate_json(figure) for name, figure in figures_of_hazard.items()}
                for hazard, figures_of_hazard in self.hazards.items()
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


def _latency_json(latency: Latency) -> dict[str, float | None]:
    values = {"mean": latency.mean, "p50": latency.median, "p95": latency.p95, "p99": latency.p99}
    return {name: None if value is None else round(value, 3) for name, value in values.items()}
