"""An audit as ``audit.yaml`` describes it, from the settings to the report and the verdict of its gate.

::

    report = run("audit.yaml")
    report.to_frame()
    all(verdict.passed for verdict in report.checks)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval.audit.encodings import Progress
from safe_retrieval.audit.gate import check, check_names, check_worsening
from safe_retrieval.audit.opening import Opener
from safe_retrieval.audit.probe_sources import load_probes
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.audit.regression import compare_reports, read_comparable
from safe_retrieval.audit.report import ReportFolder
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import CUTOFFS, check_audit, run_audit
from safe_retrieval.audit.settings import AuditSettings, load_settings
from safe_retrieval.encoder.progress import progress_bar


class Audited(NamedTuple):
    """A finished audit.

    Attributes:
        report: as it was written.
        folder: where.
        notes: what a reader should know of targets, by name.
    """

    report: AuditReport
    folder: Path
    notes: Mapping[str, list[str]]

    @property
    def passed(self) -> bool:
        """Whether every threshold holds; without thresholds, yes."""
        return all(verdict.passed for verdict in self.report.checks)


def run(
    settings: AuditSettings | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    reveal: bool = False,
    offline: bool = False,
    progress: Progress = progress_bar,
) -> AuditReport:
    """Carry out an audit and write its report.

    Args:
        settings: a YAML file, or what one would hold.
        out: folder of the report; ``None`` takes the settings'. An earlier audit in it is replaced; one that was cut
            goes on.
        baseline: folder of an earlier audit of the same probes; ``None`` takes the settings'.
        reveal: show the texts of queries and passages in ``index.html`` and ``findings.jsonl``, under a warning.
        offline: open no connection for models or data, also where the settings would.
        progress: display for what takes time.

    Returns:
        The report: ``report.to_frame()`` has every figure as a row, ``report.checks`` the verdicts of the gate.

    Raises:
        ConfigError: the settings are wrong, or do not fit what is there.
        DataError, InputError: the probes are broken, or cannot support an audit.
        AuditError: a target cannot be reached, its answers cannot be right, or the folder cannot be written.
        ModelError, AdapterError, IndexFolderError, MissingExtraError: something a target needs cannot be had.
    """
    return carry_out(settings, out=out, baseline=baseline, reveal=reveal, offline=offline, progress=progress).report


def carry_out(
    settings: AuditSettings | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    reveal: bool = False,
    offline: bool = False,
    progress: Progress = progress_bar,
) -> Audited:
    """The same, with what the command line says besides; arguments and errors as for :func:`run`."""
    audit = load_settings(settings)
    if offline:
        audit = audit.model_copy(update={"offline": True})
    probe_set = load_probes(audit)
    check_audit(probe_set, [target.called for target in audit.targets], audit.k)
    thresholds = [each.threshold for each in audit.thresholds]
    check_names(thresholds, {*CUTOFFS, *audit.k})
    before = Path(baseline) if baseline else audit.baseline.report and audit.placed(audit.baseline.report)
    earlier = read_comparable(before, probe_set) if before else None  # now: it may lie in the folder that is written
    source_state()  # before hours of work, not after them
    folder = Path(out) if out is not None else audit.placed(audit.out)
    with ReportFolder(folder) as opened:
        opener = Opener(audit, probe_set, opened.cache, progress)
        opener.check_adapters()
        report = run_audit(
            probe_set,
            [opener.open(target) for target in audit.targets],
            cutoffs=audit.k,
            baseline=audit.reference,
            ladders={arm: [rung.rung for rung in rungs] for arm, rungs in audit.attribution.items()},
            seed=audit.seed,
            provenance=opener.provenance,
        )
        if earlier:
            report = replace(report, against=compare_reports(report, earlier))
        verdicts = check(report, thresholds)
        report = replace(report, checks=(*verdicts, *check_worsening(report, audit.baseline.fail_on)))
        opened.write(report, reveal=probe_set if reveal else None)
        opener.finished()
    return Audited(report, folder, opener.notes())
