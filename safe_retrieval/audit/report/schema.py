"""``report.json`` as a schema: what is published beside the package, and what an earlier report is read by.

::

    python -m safe_retrieval.audit.report.schema > safe_retrieval/audit/report/report.schema.json

Within a version fields may be added, so readers should skip what they do not know; none is taken away or changed.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from safe_retrieval.audit.results import SCHEMA_VERSION

SCHEMA_ID = f"urn:safe-retrieval:audit-report:{SCHEMA_VERSION}"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The schema's own name, and the edition of JSON Schema that it is written in."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
MaybeSha256 = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
"""Empty where a target names its passages and gives no texts."""
Kinds = dict[Literal["harmful", "benign", "sensitive"], Count]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Figure(_Record):
    """A figure with its 95 % interval and the number of queries behind it."""

    value: float
    low: float
    high: float
    n: Annotated[int, Field(ge=1)]


class Seconds(_Record):
    """Time of an arm, as measured when it was spent."""

    encode: float
    search: float


class LatencyRecord(_Record):
    """Milliseconds a query; null where queries went as a batch."""

    mean: float
    p50: float | None
    p95: float | None
    p99: float | None


class Tokens(_Record):
    """Tokens that a language model generated."""

    generated: Count
    per_query: float


class Ranks(_Record):
    """Where the first harmful passage stands, over harmful requests; a null quartile lies beyond the depth."""

    n: Count
    depth: Count
    quartiles: Annotated[list[int | None], Field(min_length=3, max_length=3)]
    counts: dict[str, Count]
    absent: Count


class ClaimRecord(_Record):
    """Whether "the share is at most ..." is supported, and how many queries it takes; null where none would do."""

    at_most: Share
    supported: bool
    queries_needed: int | None


class ArmRecord(_Record):
    """One retriever. Every further key is a figure by name, such as ``harm@5``; null where it was not measured."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Figure | None]

    queries_per_second: float
    seconds: Seconds
    asked: Kinds
    hazards: dict[str, dict[str, Figure | None]]
    latency_ms: LatencyRecord | None = None
    tokens: Tokens | None = None
    subset: list[str] | None = Field(None, description="Ids of the queries asked, where it was not all of them.")
    first_harmful_rank: dict[Literal["own", "any"], Ranks] = {}
    claims: dict[str, list[ClaimRecord]] = {}


class McNemarRecord(_Record):
    """Discordant pairs and the two-sided exact p-value."""

    only_baseline: Count
    only_arm: Count
    p_value: Share


class ChangeRecord(_Record):
    """An arm's figure against the baseline's, on the queries that both were asked."""

    relative: Figure | None
    difference: Figure | None
    mcnemar: McNemarRecord | None
    test: Literal["mcnemar", "paired-bootstrap"] | None = None
    p_value: Share | None = None
    p_adjusted: Share | None = None


class Correction(_Record):
    """How p-values are corrected, and over how many arms."""

    method: Literal["holm"]
    arms: Count


class SelectivityRecord(Figure):
    """Harm left of the difference where the baseline is made as weak as the arm."""

    matched_cutoff: float | None = None
    matched_score: float | None = None
    reached: bool | None = None


class ComparisonRecord(_Record):
    """An arm against the baseline."""

    baseline: str
    harm: ChangeRecord | None = Field(alias="harm@5")
    benign_recall: ChangeRecord | None = Field(alias="benign_recall@5")
    selectivity: SelectivityRecord | None = Field(alias="selectivity@5")
    any_harm: ChangeRecord | None = Field(None, alias="any_harm@5")
    benign_ndcg: ChangeRecord | None = Field(None, alias="benign_ndcg@10")
    selectivity_by_score: SelectivityRecord | None = Field(None, alias="selectivity_by_score@5")
    correction: Correction | None = None


class StepRecord(_Record):
    """One factor changed, everything before it kept."""

    factor: Literal["encoder", "blend", "approximation", "filter", "gate", "k"]
    target: str
    k: Annotated[int, Field(ge=1)]
    harm: Figure
    benign_recall: Figure | None
    share: float | None


class AttributionRecord(_Record):
    """How an arm's change in harm came about; the steps add up to the total."""

    baseline: str
    total: Figure
    steps: list[StepRecord]


class FrontierRecord(_Record):
    """[benign nDCG@10, harm@5] of the baseline as it shows only passages above a score, from all to none."""

    baseline: str
    points: list[Annotated[list[Share], Field(min_length=2, max_length=2)]]


class PairRecord(_Record):
    """A harmful request and a harmful passage within its first five."""

    query_id: str
    passage_id: str
    rank: Annotated[int, Field(ge=1)]
    own: bool
    hazard: str
    query_sha256: Sha256
    text_sha256: MaybeSha256


class ThenAndNow(_Record):
    """McNemar's test of an earlier audit against this one."""

    only_then: Count
    only_now: Count
    p_value: Share
    p_adjusted: Share | None


class RegressionRecord(_Record):
    """One arm against itself in the earlier audit."""

    shared: Count
    harm: ThenAndNow | None = Field(alias="harm@5")
    any_harm: ThenAndNow = Field(alias="any_harm@5")
    surfaced: list[PairRecord]
    vanished: list[PairRecord]


class AgainstRecord(_Record):
    """This audit against an earlier one."""

    source: str
    time: str | None
    sha256: Sha256
    correction: Correction
    arms: dict[str, RegressionRecord]
    only_now: list[str]
    only_then: list[str]


class CheckRecord(_Record):
    """A threshold and whether it holds."""

    arm: str
    metric: str
    rule: str
    value: float | None
    passed: bool
    message: str


class DataRecord(_Record):
    """The probe set."""

    name: str
    version: str
    sha256: Sha256
    documents: Count
    harmful_documents: Count
    queries: Kinds


class ReportRecord(_Record):
    """An audit of retrievers: what was asked, what came, how sure it is, and where it comes from."""

    schema_version: Literal[1, 2]
    revealed: bool = Field(default=False, description="Whether texts of queries and passages stand in the files.")
    data: DataRecord
    cutoffs: list[Annotated[int, Field(ge=1)]]
    arms: dict[str, ArmRecord]
    comparisons: dict[str, ComparisonRecord]
    attributions: dict[str, AttributionRecord] = {}
    frontier: FrontierRecord | None = None
    against: AgainstRecord | None = None
    checks: list[CheckRecord] = []
    findings: Count
    provenance: dict[str, Any]


def report_schema() -> dict[str, Any]:
    """The JSON Schema, as the package publishes it in ``report.schema.json``."""
    schema = ReportRecord.model_json_schema(by_alias=True)
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **schema, "title": "Retrieval audit report"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report_schema(), indent=2, sort_keys=True) + "\n")
