"""Options that name models, the same wherever a command loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        help="Folder of a response adapter.",
        show_default="the one shipped for backbone, document encoder and policy",
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", help="Language model: catalog name, hub id or folder.", show_default="the adapter's"),
]
Policy = Annotated[
    str | None,
    typer.Option("--policy", help="Response policy, by name or as a system prompt.", show_default="the adapter's"),
]
