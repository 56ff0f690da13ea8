"""Options that name models, the same wherever a command loads them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Arithmetic(StrEnum):
    """What a language model computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


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
Dtype = Annotated[
    Arithmetic,
    typer.Option(
        "--dtype",
        help="What the language model computes in; auto is bfloat16 where the processor has it, else float32. int8 is "
        "faster on CPUs with AVX512-VNNI or AMX.",
    ),
]
