"""What differs: an arm from the baseline, step by step between them, and an audit from an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from safe_retrieval.audit.figures import HEADLINE, estimate_json
from safe_retrieval.metrics import Estimate, McNemar

CORRECTION = "holm"
"""How p-values are corrected where several arms are compared; the family is one metric over all of them."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of an arm against the baseline's, on the queries that both were asked.

    Attributes:
        relative: arm / baseline - 1; ``None`` where the baseline is 0.
        difference: arm - baseline.
        test: McNemar's exact test (first: baseline); ``None`` where values are graded.
        p_value: two-sided, McNemar's, or the paired bootstrap's where values are graded.
        p_adjusted: corrected by Holm for the arms compared; equal to ``p_value`` where there is one.
    """

    relative: Estimate | None
    difference: Estimate
    test: McNemar | None
    p_value: float
    p_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        test = self.test
        return {
            "relative": estimate_json(self.relative),
            "difference": estimate_json(self.difference),
            "mcnemar": test
            and {"only_baseline": test.only_first, "only_arm": test.only_second, "p_value": test.p_value},
            "test": "mcnemar" if test else "paired-bootstrap",
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
        }


class Weakening(StrEnum):
    """How the baseline is made weaker until its benign recall is the arm's."""

    CUTOFF = "k"
    """It shows fewer passages, or more."""
    THRESHOLD = "score"
    """It shows only passages above a score."""


@dataclass(frozen=True, slots=True)
class Selectivity:
    """Harm at equal usefulness: what is left of a harm reduction when the baseline is made as weak as the arm.

    Attributes:
        difference: harm@5 of the arm minus the baseline's harm at the level where its benign recall is the arm's
            recall@5. Below 0: safer than weakness explains.
        level: that level, interpolated: a cut-off k, or a score.
        reached: whether the baseline gets to that recall at all; where not, its best is taken, which understates the
            arm.
    """

    difference: Estimate
    level: float
    reached: bool

    def to_json(self, weakening: Weakening) -> dict[str, Any]:
        """As reports have it."""
        name, digits = ("matched_cutoff", 3) if weakening is Weakening.CUTOFF else ("matched_score", 6)
        return {**(estimate_json(self.difference) or {}), name: round(self.level, digits), "reached": self.reached}


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the baseline; a part is ``None`` where the probe set cannot support it."""

    baseline: str
    harm: MetricChange | None
    benign_recall: MetricChange | None
    selectivity: Selectivity | None
    any_harm: MetricChange | None = None
    benign_ndcg: MetricChange | None = None
    selectivity_by_score: Selectivity | None = None
    family: int = 1
    """Arms compared, over which p-values are corrected."""

    @property
    def changes(self) -> dict[str, MetricChange | None]:
        """By the name of the metric."""
        return {
            f"harm@{HEADLINE}": self.harm,
            f"any_harm@{HEADLINE}": self.any_harm,
            f"benign_recall@{HEADLINE}": self.benign_recall,
            "benign_ndcg@10": self.benign_ndcg,
        }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as reports write it."""
    by_cutoff, by_score = comparison.selectivity, comparison.selectivity_by_score
    return {
        "baseline": comparison.baseline,
        **{name: change and change.to_json() for name, change in comparison.changes.items()},
        "correction": {"method": CORRECTION, "arms": comparison.family},
        f"selectivity@{HEADLINE}": by_cutoff and by_cutoff.to_json(Weakening.CUTOFF),
        f"selectivity_by_score@{HEADLINE}": by_score and by_score.to_json(Weakening.THRESHOLD),
    }


class Factor(StrEnum):
    """What a step from the baseline to an arm changes."""

    ENCODER = "encoder"
    BLEND = "blend"
    APPROXIMATION = "approximation"
    """An approximate index in place of a flat one."""
    FILTER = "filter"
    GATE = "gate"
    CUTOFF = "k"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing changed, everything before it kept.

    Attributes:
        factor: what changed.
        target: the retriever after the change.
        k: the cut-off after the change.
        harm: change of harm@k, after minus before.
        benign_recall: change of benign recall@k.
        share: of the whole change in harm that this step explains; ``None`` where harm does not change.
    """

    factor: Factor
    target: str
    k: int
    harm: Estimate
    benign_recall: Estimate | None
    share: float | None

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {
            "factor": self.factor.value,
            "target": self.target,
            "k": self.k,
            "harm": estimate_json(self.harm),
            "benign_recall": estimate_json(self.benign_recall),
            "share": None if self.share is None else round(self.share, 4),
        }


@dataclass(frozen=True, slots=True)
class Attribution:
    """How the change from the baseline to an arm came about; the steps' changes add up to ``total``."""

    baseline: str
    total: Estimate
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {
            "baseline": self.baseline,
            "total": estimate_json(self.total),
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """A harmful request and a harmful passage within its first five."""

    query_id: str
    passage_id: str
    rank: int
    own: bool
    hazard: str
    query_sha256: str
    text_sha256: str

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Regression:
    """An arm against the arm of the same name in an earlier audit, on the requests that both were asked.

    Attributes:
        surfaced: pairs that are there now and were not then, by request and rank.
        vanished: pairs that were there then and are not now.
        harm: harm@5 then and now (first: then); ``None`` where no shared request has passages of its own.
        any_harm: any_harm@5 then and now.
        shared: requests that both were asked.
        harm_adjusted, any_harm_adjusted: p-values corrected by Holm for the arms compared.
    """

    surfaced: tuple[Pair, ...]
    vanished: tuple[Pair, ...]
    harm: McNemar | None
    any_harm: McNemar
    shared: int
    harm_adjusted: float | None
    any_harm_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {
            "shared": self.shared,
            f"harm@{HEADLINE}": self.harm and _then_and_now(self.harm, self.harm_adjusted),
            f"any_harm@{HEADLINE}": _then_and_now(self.any_harm, self.any_harm_adjusted),
            "surfaced": [pair.to_json() for pair in self.surfaced],
            "vanished": [pair.to_json() for pair in self.vanished],
        }


def _then_and_now(test: McNemar, adjusted: float | None) -> dict[str, Any]:
    return {
        "only_then": test.only_first,
        "only_now": test.only_second,
        "p_value": test.p_value,
        "p_adjusted": adjusted,
    }


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """This audit against an earlier report.

    Attributes:
        source: where that report lies, as it was given.
        time: when it was made; ``None`` where it does not say.
        sha256: of its ``report.json``.
        arms: by name, those that both have.
        only_now, only_then: arms that have no partner.
    """

    source: str
    time: str | None
    sha256: str
    arms: Mapping[str, Regression]
    only_now: tuple[str, ...]
    only_then: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As reports have it."""
        return {
            "source": self.source,
            "time": self.time,
            "sha256": self.sha256,
            "correction": {"method": CORRECTION, "arms": len(self.arms)},
            "arms": {name: regression.to_json() for name, regression in self.arms.items()},
            "only_now": list(self.only_now),
            "only_then": list(self.only_then),
        }
