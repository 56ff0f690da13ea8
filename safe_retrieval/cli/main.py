"""Entry point of ``safe-retrieval``: puts the command groups together and turns errors into one readable line."""

from __future__ import annotations

import sys
import traceback

import typer

from safe_retrieval import __version__
from safe_retrieval.cli import audit, audit_run, bench, encode, index, llm2vec, models, search, serve, train
from safe_retrieval.errors import SafeRetrievalError

app = typer.Typer(
    name="safe-retrieval",
    help="Output-centric retrieval, and audits of how much harm a retriever hands over.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models")
app.add_typer(index.app, name="index")
app.add_typer(bench.app, name="bench")
app.command("search")(search.search)
app.command("encode")(encode.encode)
audit.app.command("run")(audit_run.run)
audit.app.command("init")(audit_run.init)
app.add_typer(audit.app, name="audit")
app.command("train")(train.train)
app.command("train-gate")(train.train_gate)
app.command("llm2vec")(llm2vec.llm2vec)
app.command("serve")(serve.serve)
app.command("api-key")(serve.api_key)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"safe-retrieval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Output-centric retrieval, and audits of how much harm a retriever hands over."""


def run() -> None:
    """Run the program; an expected error is one line on stderr, a crash a traceback, and either is exit code 2."""
    try:
        app()
    except SafeRetrievalError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:  # Python's own exit code for a crash is 1, which a gate takes for a verdict
        traceback.print_exc()
        raise SystemExit(2) from error


if __name__ == "__main__":
    run()
