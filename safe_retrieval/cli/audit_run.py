"""``safe-retrieval audit run`` and ``audit init``: the audit of any retriever, as a file describes it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.cli.audit import print_table, shown_progress
from safe_retrieval.errors import InputError

if TYPE_CHECKING:
    from safe_retrieval.audit.configured import Audited

DEFAULT = Path("audit.yaml")
"""The file that is written and read where none is named."""


def run(
    config: Annotated[Path, typer.Argument(help="The settings; audit init writes them to begin with.")] = DEFAULT,
    *,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Report folder, in place of the file's.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of an earlier audit of the same probes, in place of the file's.")
    ] = None,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="Show harmful texts in index.html and findings.jsonl; both then say so."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection for models or data, whatever the file says.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="report.json on stdout in place of the table.")] = False,
) -> None:
    """Audit the retrievers that CONFIG names, with the probes that it names, against its thresholds.

    Exit code 0: every threshold holds. 1: one is broken, or an arm became worse than the baseline report. 2: the audit
    could not be carried out. A cut audit goes on at the next query when it is started again.
    """
    from safe_retrieval.audit.configured import carry_out
    from safe_retrieval.audit.report.reveal import WARNING

    audited = carry_out(
        config, out=out_folder, baseline=baseline, reveal=reveal, offline=offline, progress=shown_progress()
    )
    if reveal:
        _line(err(), f"warning: {WARNING}")
    if as_json:
        print_json(audited.report.to_json())
    else:
        print_table(audited.report)
    _say(audited, err() if as_json else out())
    _line(err(), f"report: {audited.folder / 'index.html'}")
    if not audited.passed:
        raise typer.Exit(1)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = DEFAULT,
    *,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write settings for an audit, with a comment on every field; they can be run as they are."""
    if path.exists() and not force:
        raise InputError(f"{path} is there already; give another path, or --force to write over it")
    content = files("safe_retrieval.audit").joinpath("audit.example.yaml").read_text(encoding="utf-8")
    try:
        path.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    _line(out(), f"wrote {path}; run it with: safe-retrieval audit run {path}")


def _say(audited: Audited, results: Console) -> None:
    """Verdicts, and what a reader should know of the targets."""
    for verdict in audited.report.checks:
        _line(results, f"{'pass' if verdict.passed else 'FAIL'}  {verdict.message}")
    for name, notes in audited.notes.items():
        for note in notes:
            _line(err(), f"note: {name}: {note}")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
