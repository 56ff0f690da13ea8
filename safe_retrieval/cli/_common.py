"""What the command groups share: results go to stdout, progress and remarks to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from safe_retrieval.errors import InputError

_STOPPED_BY_USER = 130  # what a shell calls a program that ended on Ctrl-C

_PIPED_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where there is no terminal to ask."""


def out() -> Console:
    """The console for results."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def err() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True)


def stopped() -> typer.Exit:
    """How a command ends that a person stopped and that goes on where it was."""
    err().print("stopped; the same command goes on where it stopped", markup=False, highlight=False)
    return typer.Exit(_STOPPED_BY_USER)


def shown(path: Path) -> str:
    """A path as a person would type it from here: below the current folder relative to it, elsewhere whole."""
    whole, here = path.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def filter_from(text: str | None) -> dict[str, Any] | None:
    """A condition on metadata out of an option; whether it makes sense is for the index to say.

    Raises:
        InputError: it is no JSON object.
    """
    if text is None:
        return None
    try:
        where = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise InputError(f"--where: expected JSON such as '{{\"year\": 1990}}', got {text[:80]!r}: {error}") from error
    if not isinstance(where, dict):
        raise InputError(f"--where: expected a JSON object such as '{{\"year\": 1990}}', got {text!r}")
    return where


def print_json(value: Any) -> None:
    """Write one JSON document to stdout, for a program to read."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which metadata may hold: it stands in JSON as an escape
        text = json.dumps(value, indent=2)
    typer.echo(text)
