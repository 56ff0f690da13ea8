"""Write README's result tables from the audit reports that lie in ``benchmarks/results``.

    python benchmarks/readme_table.py                                  # again, from the reports that README names
    python benchmarks/readme_table.py benchmarks/results/audit.json    # from these reports instead
    python benchmarks/readme_table.py --check                          # exit code 1 where README differs

The tables stand between pairs of markers, and the first of a pair names the reports, so that nobody has to remember
where a figure came from: what is between the markers is never written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BASELINE = "input"
MISSING = "n/a"
SCHEMA_VERSIONS = (1, 2)
"""Those that have the figures of the table; 2 has all that 1 had."""

_FIRST_LINE = re.compile(r"<!-- results:[^>]*?-->")
_BLOCK = re.compile(r"<!-- results:(?P<paths>[^>]*?)-->\n.*?<!-- end of results -->", re.DOTALL)

NO_RESULT = (
    "*No result is recorded yet. `make audit` measures and writes `audit-report/report.json`; copied to "
    "`benchmarks/results`, `python benchmarks/readme_table.py benchmarks/results/report.json` puts it here.*"
)

Report = Mapping[str, Any]
"""The content of a ``report.json``; docs/audit.md describes it."""


class ReadmeTableError(Exception):
    """README or a report is not what it is expected to be."""


def render(readme: str, reports: Mapping[str, Report]) -> str:
    """README with, between each pair of markers, the tables of the reports that it names.

    Args:
        readme: the text.
        reports: by their paths from the repository's root; all that are named.

    Raises:
        ReadmeTableError: README has no markers.
    """
    if not _BLOCK.search(readme):
        raise ReadmeTableError("expected blocks from '<!-- results: PATHS -->' to '<!-- end of results -->', got none")

    def block(found: re.Match[str]) -> str:
        content = "\n\n".join(section(path, reports[path]) for path in found["paths"].split()) or NO_RESULT
        return f"<!-- results:{found['paths']}-->\n\n{content}\n\n<!-- end of results -->"

    return _BLOCK.sub(block, readme)


def naming(readme: str, paths: Sequence[str]) -> str:
    """README with other reports named in its markers.

    Raises:
        ReadmeTableError: it has no markers, or several pairs: which of them should name the reports is not known.
    """
    if len(_BLOCK.findall(readme)) != 1:
        raise ReadmeTableError(
            "expected one block from '<!-- results: PATHS -->' to '<!-- end of results -->' to name the reports in; "
            "where there are several, write the paths into their first lines and give none here"
        )
    return _FIRST_LINE.sub(lambda _: f"<!-- results: {' '.join(paths)} -->", readme)


def named_reports(readme: str) -> list[str]:
    """The reports that README's markers name, as paths from the repository's root."""
    return [path for block in _BLOCK.finditer(readme) for path in block["paths"].split()]


def section(path: str, report: Report) -> str:
    """One report: what was asked, the table, and where it comes from."""
    if report.get("schema_version") not in SCHEMA_VERSIONS:
        expected = " or ".join(map(str, SCHEMA_VERSIONS))
        raise ReadmeTableError(f"{path}: expected schema_version {expected}, got {report.get('schema_version')}")
    return f"{_asked(report)}\n\n{table(report)}\n\n{_origin(path, report)}"


def table(report: Report) -> str:
    """One row an arm, harm and benign recall side by side with 95 % intervals."""
    harm = "harm@5" if any(arm["harm@5"] for arm in report["arms"].values()) else "any_harm@5"
    headings = [
        "arm",
        f"{harm.replace('_', ' ')} (lower is safer)",
        f"against `{BASELINE}`",
        "benign recall@5",
        f"against `{BASELINE}`",
        "over-refusal",
        "benign nDCG@10",
        "queries/s",
    ]
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for name, arm in report["arms"].items():
        comparison = report["comparisons"].get(name)
        rows.append(
            [
                f"`{name}`",
                _percent(arm[harm]),
                _change(comparison, harm),
                _percent(arm["benign_recall@5"]),
                _change(comparison, "benign_recall@5"),
                _percent(arm["over_refusal"]),
                MISSING if arm["benign_ndcg@10"] is None else f"{arm['benign_ndcg@10']['value']:.3f}",
                _speed(arm["queries_per_second"]),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _percent(figure: Mapping[str, float] | None) -> str:
    """``12.3 % (10.1 to 14.9)``."""
    if figure is None:
        return MISSING
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def _change(comparison: Mapping[str, Any] | None, metric: str) -> str:
    """Relative change of a metric, or what stands for none: the baseline itself, or nothing to compare."""
    if comparison is None:
        return ""
    change = comparison[metric]
    relative = change and change["relative"]
    return MISSING if not relative else f"{100 * relative['value']:+.1f} %"


def _speed(queries_per_second: float) -> str:
    return f"{queries_per_second:,.0f}" if queries_per_second >= 10 else f"{queries_per_second:.2g}"


def _asked(report: Report) -> str:
    data = report["data"]
    counts = data["queries"]
    most = max(sum(arm["asked"].values()) for arm in report["arms"].values())
    fewer = {name: asked for name, arm in report["arms"].items() if (asked := sum(arm["asked"].values())) < most}
    text = (
        f"**{data['name']}**: {counts['harmful']:,} harmful, {counts['benign']:,} benign and "
        f"{counts['sensitive']:,} sensitive but harmless queries, {data['documents']:,} passages, one index."
    )
    for name, asked in fewer.items():
        text += f" `{name}` was asked a sample of {asked:,} of them."
    return text


def _origin(path: str, report: Report) -> str:
    """Models, machine, time and commit, with a link to the report."""
    provenance = report["provenance"]
    models = [
        f"{label} `{provenance[key]['name']}`"
        for key, label in (("backbone", "backbone"), ("document_encoder", "document encoder"))
        if key in provenance
    ]
    commit = provenance.get("commit")
    parts = [
        "95 % intervals in brackets",
        *models,
        f"{provenance['threads']} threads of {provenance['cpu'] or 'an unnamed processor'}",
        provenance["time"].partition("T")[0],
        *([f"commit {commit[:10]}{' with local changes' if provenance.get('modified') else ''}"] if commit else []),
        f"[all figures]({path})",
    ]
    return f"<sub>{'; '.join(parts)}.</sub>"


def _load(path: str) -> Report:
    try:
        report: Report = json.loads((REPOSITORY / path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadmeTableError(f"{path} cannot be read as an audit's report.json: {error}") from error
    return report


def _relative(path: Path) -> str:
    """A path as README links to it."""
    try:
        return path.resolve().relative_to(REPOSITORY).as_posix()
    except ValueError as error:
        raise ReadmeTableError(f"{path} lies outside the repository; copy it to benchmarks/results first") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0 done, 1 README differs (``--check``), 2 an error."""
    parser = argparse.ArgumentParser(description="Write README's result tables from audit reports.")
    parser.add_argument("report", nargs="*", type=Path, help="report.json files; default those that README names")
    parser.add_argument("--readme", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where README differs")
    options = parser.parse_args(arguments)
    try:
        before = options.readme.read_text(encoding="utf-8")
        named = naming(before, [_relative(path) for path in options.report]) if options.report else before
        after = render(named, {path: _load(path) for path in named_reports(named)})
    except (OSError, ReadmeTableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        if after != before:
            print(f"{options.readme} is not what its reports say; run: make docs", file=sys.stderr)
        return int(after != before)
    options.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
