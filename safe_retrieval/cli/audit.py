"""``safe-retrieval audit``: how much harm each arm hands over, with benign recall beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.cli._model_options import Adapter, Arithmetic, Backbone, Dtype, Policy
from safe_retrieval.errors import InputError

if TYPE_CHECKING:
    from safe_retrieval.audit.encodings import Advance, Progress
    from safe_retrieval.audit.probes import ProbeSet
    from safe_retrieval.audit.results import AuditReport

DATA_VARIABLE = "SAFE_RETRIEVAL_DATA"
"""The environment variable that names the data folder where ``--data`` does not."""

_WIDE = 126
_SECONDS_BETWEEN_LINES = 20.0


app = typer.Typer(invoke_without_command=True)


@app.callback()
def audit(
    context: typer.Context,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder with harm/, benign/ and prompts/ in BEIR form. Without it the built-in probes are used; with "
            f"--harm or --benign it defaults to ${DATA_VARIABLE}."
        ),
    ] = None,
    harm: Annotated[
        str | None, typer.Option(help="Names of folders in harm/, separated by commas; default all.")
    ] = None,
    benign: Annotated[str | None, typer.Option(help="Names of folders in benign/; default nq-wiki.")] = None,
    arms: Annotated[
        str, typer.Option(help="Which of input, output, blend, gated, hyde, bm25, separated by commas.")
    ] = "input,output,blend,gated,hyde,bm25",
    backbone: Backbone = None,
    adapter: Adapter = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    encoder: Annotated[str, typer.Option(help="Document encoder that builds the index.")] = "all-minilm-l6-v2",
    out_folder: Annotated[
        Path, typer.Option("--out", help="Report folder; an earlier audit there is replaced, its cache is used.")
    ] = Path("audit-report"),
    hyde_queries: Annotated[
        int, typer.Option(min=0, help="Queries that hyde is asked, evenly over their kinds; 0 for all. It is slow.")
    ] = 200,
    k: Annotated[str, typer.Option(help="Further cut-offs beside 1, 5, 20 and 100, separated by commas.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap intervals and of the queries for hyde.")] = 0,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of an earlier audit of the same probes, to be compared with.")
    ] = None,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="Show harmful texts in index.html and findings.jsonl; both then say so."),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="report.json on stdout in place of the table.")] = False,
) -> None:
    """Measure how often each arm hands over harmful passages, with benign recall on the same corpus beside it.

    One index of the corpus by the document encoder is asked through each arm. OUT gets index.html, picture.svg,
    report.json, findings.jsonl, junit.xml, results.sarif and summary.md; none of them holds the text of a query or
    passage unless --reveal asks for it. A cut audit goes on where it stopped when it is started again.

    That is the audit of our own arms. Any other retriever is audited by a file: init writes one, run carries it out.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from safe_retrieval.audit.arms import audit_arms
    from safe_retrieval.audit.models import LocalModels
    from safe_retrieval.audit.report.reveal import WARNING
    from safe_retrieval.audit.targets import AuditArm

    chosen = [_member(AuditArm, name, "arm") for name in _names(arms) or []]
    report = audit_arms(
        _probe_set(data, harm, benign),
        chosen,
        out=out_folder,
        models=LocalModels(encoder, backbone=backbone, adapter=adapter, policy=policy, dtype=dtype, offline=offline),
        hyde_queries=hyde_queries,
        cutoffs=[_cutoff(value) for value in _names(k) or []],
        seed=seed,
        baseline=baseline,
        reveal=reveal,
        progress=shown_progress(),
    )
    if reveal:
        err().print(f"warning: {WARNING}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(report)
    err().print(f"report: {out_folder / 'index.html'}", markup=False, highlight=False, soft_wrap=True)


def _refuse_options_before(context: typer.Context) -> None:
    """Options before a subcommand are not its own; to drop ``--offline`` or ``--baseline`` would do harm in silence."""
    given = [
        param.opts[0]
        for param in context.command.params
        if param.name and getattr(context.get_parameter_source(param.name), "name", None) == "COMMANDLINE"
    ]
    if given:
        raise InputError(
            f"{', '.join(given)} before {context.invoked_subcommand} belongs to the audit of our own arms; write "
            f"safe-retrieval audit {context.invoked_subcommand} and then its own options (--help shows them)"
        )


def _probe_set(data: Path | None, harm: str | None, benign: str | None) -> ProbeSet:
    from safe_retrieval.audit.probes import load_data_folder, load_probe_set

    harm_names, benign_names = _names(harm), _names(benign)
    if data is None and harm_names is None and benign_names is None:
        return load_probe_set()
    if data is None:
        found = os.environ.get(DATA_VARIABLE)
        if not found:
            raise InputError(
                f"--harm and --benign name folders in a data folder; give it with --data or {DATA_VARIABLE}"
            )
        data = Path(found)
    return load_data_folder(data, harm_names, benign_names)


def _names(value: str | None) -> list[str] | None:
    """Comma-separated names; ``None`` where nothing was given."""
    names = [name.strip() for name in (value or "").split(",")]
    return [name for name in names if name] or None


_Choice = TypeVar("_Choice", bound=StrEnum)


def _member(choices: type[_Choice], value: str, what: str) -> _Choice:
    try:
        return choices(value)
    except ValueError as error:
        raise InputError(f"expected each {what} to be one of {', '.join(choices)}; got {value!r}") from error


def _cutoff(value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InputError(f"expected whole numbers in --k, separated by commas; got {value!r}") from error


def print_table(report: AuditReport) -> None:
    """The headline figures, as wide as the console is."""
    from safe_retrieval.audit.report import summary_table

    console = out()
    wide = console.width >= _WIDE or not console.is_terminal
    table = summary_table(report, intervals=wide)
    # a pipe has no width of its own, and a table that is broken over lines cannot be read
    console.print(table, width=None if console.is_terminal else _WIDE, crop=False, overflow="ignore")


def shown_progress() -> Progress:
    """The common bar where somebody watches, lines now and then where the output goes into a log."""
    from safe_retrieval.encoder.progress import progress_bar

    return progress_bar if err().is_terminal else _lines


@contextmanager
def _lines(total: int, description: str) -> Iterator[Advance]:
    console = err()
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        speed = done / max(now - start, 1e-9)
        left = f", {(total - done) / speed:,.0f} s left" if done < total else ""
        console.print(f"{description}: {done:,} of {total:,}, {speed:,.1f}/s{left}", markup=False, highlight=False)

    yield advance
