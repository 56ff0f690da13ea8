"""``safe-retrieval encode``: texts to vectors and refusal probabilities."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.cli._model_options import Adapter, Arithmetic, Backbone, Dtype, Policy
from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.types import QueryEncoding

_SHOWN = 72  # characters of a text that are shown beside its figures


def encode(
    text: Annotated[list[str] | None, typer.Argument(help="Texts to encode.", show_default=False)] = None,
    *,
    source: Annotated[
        Path | None,
        typer.Option("--input", help="Texts as JSON lines with a 'text' field (.jsonl, .jsonl.gz)."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File for the vectors, .npy: (n, d) float32, unit norm.")] = None,
    arm: Annotated[Arm, typer.Option(help="How a text becomes a vector.")] = Arm.OUTPUT,
    encoder: Annotated[
        str, typer.Option(help="Document encoder of the arms input, blend and hyde.")
    ] = DEFAULT_DOCUMENT_ENCODER,
    adapter: Adapter = None,
    backbone: Backbone = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one forward pass.")] = 32,
    force: Annotated[bool, typer.Option("--force", help="Replace an output file that is there.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; vectors too where there is no --output.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
) -> None:
    """Encode texts as queries; write the vectors, print the refusal probabilities.

    Without --output nothing is written, and the vectors are only in the output of --json.
    """
    texts = _texts(text, source)
    if output is not None:
        _check_output(output, force=force)
    from safe_retrieval.retrieval.arms import ArmLoader

    loader = ArmLoader(encoder, adapter=adapter, backbone=backbone, offline=offline, policy=policy, dtype=dtype)
    opened = loader.encoder(arm)
    if opened is None:
        raise InputError(f"arm {arm} has no vectors; expected one of input, output, blend, hyde")
    encoding = opened.encode(texts, batch_size=batch_size)
    if output is not None:
        _write(output, encoding)
    facts = {"encoder": opened.name, "space": opened.space, "dimension": opened.dimension, "output": output}
    if as_json:
        print_json(_as_json(facts, texts, encoding))
    else:
        _show(facts, texts, encoding)


def _texts(given: list[str] | None, source: Path | None) -> list[str]:
    if bool(given) == (source is not None):
        raise InputError("expected either texts as arguments or --input FILE.jsonl, and not both")
    # A byte of the command line that is no UTF-8 arrives as a lone surrogate, which could not be printed.
    return [readable(text) for text in given or []] if source is None else _read(source)


def _read(source: Path) -> list[str]:
    texts: list[str] = []
    try:
        with (
            gzip.open(source, "rt", encoding="utf-8")
            if source.suffix == ".gz"
            else source.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    texts.append(_text_of(source, number, line))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{source} cannot be read as UTF-8 JSON lines: {error}") from error
    if not texts:
        raise DataError(f"{source} holds no texts; expected JSON lines with a 'text' field")
    return texts


def _text_of(source: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise DataError(f"{source}, line {number}: expected one JSON object a line: {error}") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{source}, line {number}: expected an object with a string field 'text'")
    return readable(text)


def _check_output(output: Path, *, force: bool) -> None:
    """Say what is wrong with the output file before minutes of encoding, not after."""
    if output.suffix != ".npy":
        raise InputError(f"expected an output file that ends in .npy, got {output}")
    if output.exists() and not force:
        raise InputError(f"{output} is there already; give another file, or --force to replace it")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent} is not a folder; make it first, or give another file")
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}") from error


def _write(output: Path, encoding: QueryEncoding) -> None:
    """Write vectors beside the output file and rename them in, so that it is whole or absent."""
    partial: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        partial = Path(name)
        with os.fdopen(handle, "wb") as file:
            np.save(file, encoding.vectors, allow_pickle=False)
        partial.chmod(0o666 & ~_umask())
        partial.replace(output)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _as_json(facts: dict[str, Any], texts: Sequence[str], encoding: QueryEncoding) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    if encoding.refusal is not None:
        for row, probability in zip(rows, encoding.refusal.tolist(), strict=True):
            row["refusal"] = probability
    output = facts["output"]
    if output is None:
        for row, vector in zip(rows, encoding.vectors.tolist(), strict=True):
            row["vector"] = vector
    return {**facts, "output": None if output is None else str(output), "texts": rows}


def _show(facts: dict[str, Any], texts: Sequence[str], encoding: QueryEncoding) -> None:
    if encoding.refusal is None:
        err().print("this arm has no refusal verdict", markup=False, highlight=False)
    else:
        lines = [f"{p:.3f}  {_short(text)}" for p, text in zip(encoding.refusal.tolist(), texts, strict=True)]
        out().print("\n".join(["refusal", *lines]), markup=False, highlight=False, soft_wrap=True)
    where = facts["output"] or "not written, no --output"
    remark = f"{len(texts):,} vectors of {facts['dimension']} numbers by {facts['encoder']}: {where}"
    err().print(remark, markup=False, highlight=False, soft_wrap=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
