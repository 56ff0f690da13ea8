"""What the command groups share: results go to stdout, progress and remarks to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich.console import Console

_PIPED_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where there is no terminal to ask."""


def out() -> Console:
    """The console for results."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def err() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True)


def print_json(value: Any) -> None:
    """Write one JSON document to stdout, for a program to read."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
