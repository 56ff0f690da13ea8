"""``summary.md``: the audit as a comment under a pull request. GitHub's Markdown, no text of a query or passage."""

from __future__ import annotations

from collections.abc import Iterator

from safe_retrieval.audit.changes import BaselineComparison
from safe_retrieval.audit.report.headline import NDCG, RECALL, best_of, harm_metric
from safe_retrieval.audit.report.writing import bounds, metric_name, number, p_value, points, signed
from safe_retrieval.audit.results import ArmResult, AuditReport

_LISTED = 20
"""Pairs that a comment lists; all of them stand in report.json."""


def render_summary(report: AuditReport, *, revealed: bool = False) -> str:
    """The file's content."""
    blocks = [_title(report), *_mark(revealed), *_checks(report), "\n".join(_table(report)), _note(report)]
    if report.against:
        blocks.append("\n".join(_against(report.against)))
    blocks.append(_origin(report))
    return "\n\n".join(blocks) + "\n"


def _title(report: AuditReport) -> str:
    broken = sum(not check.passed for check in report.checks)
    if broken:
        outcome = f": {broken} of {len(report.checks)} thresholds broken"
    else:
        outcome = f": {len(report.checks)} of {len(report.checks)} thresholds hold" if report.checks else ""
    return f"## Retrieval audit{outcome}"


def _mark(revealed: bool) -> Iterator[str]:
    if revealed:
        yield "> [!WARNING]\n> The full report beside this summary shows harmful text. Do not attach or publish it."


def _checks(report: AuditReport) -> Iterator[str]:
    if report.checks:
        rows = [
            f"| {'pass' if check.passed else '**FAIL**'} | {_cell(check.arm)} | {_cell(check.rule)} | "
            f"{_cell(check.message)} |"
            for check in sorted(report.checks, key=lambda check: check.passed)
        ]
        yield "\n".join(["| | arm | threshold | measured |", "|---|---|---|---|", *rows])


def _table(report: AuditReport) -> Iterator[str]:
    harm, best = harm_metric(report), best_of(report)
    compared = report.baseline is not None
    heads = ["arm", metric_name(harm), metric_name(RECALL), metric_name(NDCG), "over-refusal"]
    if compared:
        heads += [f"harm against {_cell(report.baseline or '')}", "p (Holm)", "selectivity"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    for name, result in report.arms.items():
        label = f"**{_cell(name)}**" if name == best else _cell(name)
        cells = [label, *(_figure(result, metric) for metric in (harm, RECALL, NDCG, "over_refusal"))]
        if compared:
            cells += _compared(report, name)
        yield "| " + " | ".join(cells) + " |"


def _figure(result: ArmResult, metric: str) -> str:
    figure = result.metrics[metric]
    interval = bounds(figure, metric)
    return f"{number(figure, metric)}{f' ({interval})' if interval else ''}"


def _compared(report: AuditReport, name: str) -> list[str]:
    comparison = report.comparisons.get(name)
    if comparison is None:
        return ["baseline", "", ""]
    change = comparison.changes[harm_metric(report)]
    selectivity = comparison.selectivity
    return [
        signed(change.relative) if change else "\N{EN DASH}",
        p_value(change.p_adjusted) if change else "\N{EN DASH}",
        points(selectivity.difference) if selectivity else "\N{EN DASH}",
    ]


def _note(report: AuditReport) -> str:
    counts = report.data["queries"]
    text = (
        f"{report.data['name']} {report.data['version']}: {counts['harmful']:,} harmful, {counts['benign']:,} benign "
        f"and {counts['sensitive']:,} sensitive queries on {report.data['documents']:,} passages. Harm: lower is "
        "safer; a retriever that finds nothing hands over nothing, so read it beside recall. In brackets: 95 % "
        "intervals."
    )
    if report.baseline:
        text += (
            f" p-values are corrected by Holm for {len(report.comparisons)} arms. Selectivity: what is left of the "
            f"difference in harm when {_cell(report.baseline)} is made as weak as the arm; below 0 is safety."
        )
    return text


def _against(against: BaselineComparison) -> Iterator[str]:
    yield f"### Since the baseline report ({_cell(against.time or against.source)})"
    yield ""
    yield "| arm | newly surfacing | vanished | any-harm@5: then only, now only | p (Holm) |"
    yield "|---|---:|---:|---:|---:|"
    for name, arm in against.arms.items():
        yield (
            f"| {_cell(name)} | {len(arm.surfaced)} | {len(arm.vanished)} | {arm.any_harm.only_first}, "
            f"{arm.any_harm.only_second} | {p_value(arm.any_harm_adjusted)} |"
        )
    pairs = [(name, pair) for name, arm in against.arms.items() for pair in arm.surfaced]
    if pairs:
        yield ""
        yield f"<details><summary>{len(pairs)} newly surfacing query-passage pairs</summary>"
        yield ""
        for name, pair in pairs[:_LISTED]:
            own = ", written for it" if pair.own else ""
            yield (
                f"- {_cell(name)}: `{_code(pair.passage_id)}` at rank {pair.rank} for `{_code(pair.query_id)}` "
                f"({_cell(pair.hazard)}{own})"
            )
        if len(pairs) > _LISTED:
            yield f"- and {len(pairs) - _LISTED} more in report.json"
        yield ""
        yield "</details>"


def _origin(report: AuditReport) -> str:
    commit = report.provenance.get("commit")
    parts = [f"data `{report.data['sha256'][:12]}`", f"seed {report.seed}"]
    if isinstance(commit, str):
        parts.insert(0, f"commit `{commit[:12]}`")
    listed = {name: result for name, result in report.arms.items() if result.subset is not None}
    for name, result in listed.items():
        parts.append(f"{_cell(name)} was asked {sum(result.asked.values()):,} queries")
    return (
        f"<sub>{'; '.join(parts)}. Findings: {len(report.findings):,} in findings.jsonl; details in index.html.</sub>"
    )


def _cell(text: str) -> str:
    """Text that breaks no table and starts no markup."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|#!":
        escaped = escaped.replace(sign, f"\\{sign}")
    return " ".join(escaped.split())


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("|", "/").split())
