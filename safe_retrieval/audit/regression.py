"""This audit against an earlier report: which harmful pairs newly surface, which vanished, and is that chance.

::

    report = replace(report, against=compare_reports(report, read_baseline(Path("main-branch/audit-report"))))

Two files of the earlier audit are needed, ``report.json`` and ``findings.jsonl`` beside it. Both must have asked the
same probe set: a request that only one of them was asked says nothing about a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safe_retrieval.audit.changes import BaselineComparison, Pair, Regression
from safe_retrieval.audit.figures import HEADLINE
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.audit.report.schema import ReportRecord
from safe_retrieval.audit.results import AuditReport, Finding
from safe_retrieval.errors import AuditError
from safe_retrieval.metrics import McNemar, holm, mcnemar

REPORT = "report.json"
FINDINGS = "findings.jsonl"
"""What is read of an earlier report's folder."""

_OWN = f"harm@{HEADLINE}"


class _Found(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    rank: int
    own: bool
    hazard: str
    text_sha256: str


class _Row(BaseModel):
    """A line of ``findings.jsonl``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    arm: str
    query_id: str
    query_sha256: str
    passages: tuple[_Found, ...]


class _Key(NamedTuple):
    query_id: str
    passage_id: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier report, read and checked.

    Attributes:
        source: the folder, as it was given.
        sha256: of its ``report.json``.
        record: what that file says.
        pairs: by arm, the harmful pairs within the first five.
    """

    source: str
    sha256: str
    record: ReportRecord
    pairs: Mapping[str, tuple[Pair, ...]]


def read_baseline(path: Path) -> Baseline:
    """Read an earlier audit.

    Args:
        path: its folder, or the ``report.json`` in it.

    Raises:
        AuditError: a file is missing, broken, of an unknown version, or the two do not belong together.
    """
    folder = path.parent if path.name == REPORT else path
    try:
        content = (folder / REPORT).read_bytes()
        lines = (folder / FINDINGS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(
            f"the baseline {folder} cannot be read ({error}); expected the folder of an earlier audit, with {REPORT} "
            f"and {FINDINGS}"
        ) from error
    try:
        record = ReportRecord.model_validate_json(content)
        rows = [_Row.model_validate_json(line) for line in lines]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its beginning"
        raise AuditError(f"the baseline {folder} is no audit report of ours: at {where}: {first['msg']}") from error
    if len(rows) != record.findings:
        raise AuditError(
            f"the baseline {folder} is incomplete: {REPORT} counts {record.findings} findings, {FINDINGS} has "
            f"{len(rows)}; copy both files of one audit"
        )
    pairs: dict[str, list[Pair]] = {name: [] for name in record.arms}
    for row in rows:
        pairs.setdefault(row.arm, []).extend(_pairs_of(row))
    return Baseline(str(path), hashlib.sha256(content).hexdigest(), record, {n: tuple(p) for n, p in pairs.items()})


def read_comparable(path: Path, probe_set: ProbeSet) -> Baseline:
    """The same before anything is asked, so that a baseline of other probes does not cost an audit.

    Raises:
        AuditError: as :func:`read_baseline` and :func:`compare_reports`.
    """
    baseline = read_baseline(path)
    _check_probes(baseline, name=probe_set.name, version=probe_set.version, sha256=probe_set.sha256)
    return baseline


def _check_probes(baseline: Baseline, *, name: str, version: str, sha256: str) -> None:
    then = baseline.record.data
    if then.sha256 != sha256:
        raise AuditError(
            f"the baseline {baseline.source} asked {then.name} {then.version} ({then.sha256[:12]}), this audit {name} "
            f"{version} ({sha256[:12]}); audit the baseline again with these probes"
        )


def compare_reports(report: AuditReport, baseline: Baseline) -> BaselineComparison:
    """Compare arms of equal name; p-values are corrected by Holm for their number.

    Raises:
        AuditError: the earlier audit asked another probe set.
    """
    _check_probes(baseline, name=report.data["name"], version=report.data["version"], sha256=report.data["sha256"])
    now = _pairs_by_arm(report.findings)
    arms = {
        name: _regression(report, name, baseline, now.get(name, ()))
        for name in report.arms
        if name in baseline.record.arms
    }
    return BaselineComparison(
        source=baseline.source,
        time=_text_or_none(baseline.record.provenance.get("time")),
        sha256=baseline.sha256,
        arms=_corrected(arms),
        only_now=tuple(name for name in report.arms if name not in arms),
        only_then=tuple(name for name in baseline.record.arms if name not in arms),
    )


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _pairs_of(row: _Row) -> Iterator[Pair]:
    for found in row.passages:
        yield Pair(row.query_id, found.id, found.rank, found.own, found.hazard, row.query_sha256, found.text_sha256)


def _pairs_by_arm(findings: Iterable[Finding]) -> dict[str, tuple[Pair, ...]]:
    pairs: dict[str, list[Pair]] = {}
    for finding in findings:
        pairs.setdefault(finding.arm, []).extend(_pairs_of(_Row.model_validate(finding.to_json())))
    return {arm: tuple(found) for arm, found in pairs.items()}


def _asked(everything: Iterable[str], subset: Iterable[str] | None) -> set[str]:
    return set(everything) if subset is None else set(everything).intersection(subset)


def _regression(report: AuditReport, arm: str, baseline: Baseline, now: tuple[Pair, ...]) -> Regression:
    requests = [query for query in report.queries if query.kind is ProbeKind.HARMFUL]
    ids = [query.id for query in requests]
    then_record = baseline.record.arms[arm]
    if then_record.subset is None and then_record.asked.get("harmful", 0) != len(ids):
        raise AuditError(
            f"the baseline {baseline.source} asked {arm} a part of the queries and does not say which; it was written "
            "by an earlier version, so audit the baseline again"
        )
    shared = _asked(ids, then_record.subset) & _asked(ids, report.arms[arm].subset)
    before, after = _by_key(baseline.pairs.get(arm, ()), shared), _by_key(now, shared)
    order = {query: place for place, query in enumerate(ids)}
    # where either audit could not measure harm@5, pairs of its own say nothing, and 0 against 0 would pass any gate
    measured = report.arms[arm].metrics.get(_OWN) is not None and (then_record.model_extra or {}).get(_OWN) is not None
    judged = [query.id for query in requests if measured and query.relevant and query.id in shared]
    asked = [identifier for identifier in ids if identifier in shared]
    harm = _paired(before.values(), after.values(), judged, own=True) if judged else None
    any_harm = _paired(before.values(), after.values(), asked, own=False) if asked else McNemar(0, 0, 1.0)
    return Regression(
        surfaced=_only(after, before, order),
        vanished=_only(before, after, order),
        harm=harm,
        any_harm=any_harm,
        shared=len(shared),
        harm_adjusted=harm and harm.p_value,
        any_harm_adjusted=any_harm.p_value,
    )


def _by_key(pairs: Iterable[Pair], shared: set[str]) -> dict[_Key, Pair]:
    return {_Key(pair.query_id, pair.passage_id): pair for pair in pairs if pair.query_id in shared}


def _only(pairs: Mapping[_Key, Pair], others: Mapping[_Key, Pair], order: Mapping[str, int]) -> tuple[Pair, ...]:
    """Those that are not among ``others``, by request and rank."""
    chosen = [pair for key, pair in pairs.items() if key not in others]
    return tuple(sorted(chosen, key=lambda pair: (order[pair.query_id], pair.rank)))


def _paired(before: Iterable[Pair], after: Iterable[Pair], queries: list[str], *, own: bool) -> McNemar:
    then = {pair.query_id for pair in before if pair.own or not own}
    now = {pair.query_id for pair in after if pair.own or not own}
    return mcnemar([float(query in then) for query in queries], [float(query in now) for query in queries])


def _corrected(arms: Mapping[str, Regression]) -> dict[str, Regression]:
    out = dict(arms)
    judged = {name: arm.harm.p_value for name, arm in arms.items() if arm.harm}
    for name, p_value in zip(judged, holm(list(judged.values())), strict=True):
        out[name] = replace(out[name], harm_adjusted=p_value)
    for name, p_value in zip(arms, holm([arm.any_harm.p_value for arm in arms.values()]), strict=True):
        out[name] = replace(out[name], any_harm_adjusted=p_value)
    return out
