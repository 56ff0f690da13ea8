"""``safe-retrieval index tune``: measure kinds of index on a sample of an index's own vectors, and take the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from safe_retrieval.cli._common import out, print_json
from safe_retrieval.cli._index_options import IndexFolder, Offline, memory_bytes, remark

if TYPE_CHECKING:
    from safe_retrieval.index.searchable import SearchableIndex
    from safe_retrieval.index.settings import SearchSettings
    from safe_retrieval.index.tuning import Measured
    from safe_retrieval.types import FloatMatrix

_WIDTH, _HEIGHT = 60, 14


def tune(
    folder: IndexFolder,
    *,
    recall: Annotated[float, typer.Option(min=0, max=1, help="Least recall@10 against exact search.")] = 0.95,
    memory: Annotated[
        str | None, typer.Option(help="Memory that all vectors may take: 4GB.", show_default="no bound")
    ] = None,
    sample: Annotated[int, typer.Option(min=100, help="Vectors that are measured on.")] = 100_000,
    queries: Annotated[int, typer.Option(min=1, help="Vectors held out to ask with.")] = 200,
    queries_file: Annotated[
        Path | None, typer.Option(help="Real queries, one a line.", show_default="documents that are held out")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply/--no-apply", help="Make the index of the chosen kind, and write the settings down.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything measured as JSON.")] = False,
    offline: Offline = False,
) -> None:
    """Measure recall@10, latency and bytes a vector of the sensible kinds of index, and take the best.

    Nothing is encoded, real queries apart. The choice is the fastest kind that finds enough and fits into the memory.
    """
    from safe_retrieval.index.folder import load_index
    from safe_retrieval.index.tuning import choose, for_the_whole, frontier, measure

    with load_index(folder) as index:
        vectors, asked = _parts(index, sample, queries, queries_file, seed=seed, offline=offline)
        measured = measure(vectors, asked, report=lambda name: remark(f"measuring {name}"))
        room = memory_bytes(memory)
        bound = None if room is None else room / len(index)
        chosen = choose(measured, recall=recall, bytes_per_vector=bound)
        factory, settings = for_the_whole(chosen, len(index))
        if as_json:
            print_json([_fields(one) for one in measured])
        else:
            best = frontier(measured)
            out().print(_table(best, chosen))
            out().print(_plot(best, chosen), markup=False, highlight=False)
        if chosen.recall < recall:
            remark(f"nothing that fits reaches recall {recall:g}; {chosen.factory.name} comes nearest")
        remark(f"chosen: {factory.name}, {shown(settings)}")
        if apply:
            index.tune(factory.name, settings, memory=room)
            remark(f"written: {folder}")


def _parts(
    index: SearchableIndex, sample: int, queries: int, queries_file: Path | None, *, seed: int, offline: bool
) -> tuple[FloatMatrix, FloatMatrix]:
    """Vectors to search, and vectors to ask with."""
    if queries_file is None:
        queries = min(queries, max(1, len(index) // 10))
        drawn = index.sample_vectors(sample + queries, seed=seed)
        return drawn[:-queries], drawn[-queries:]
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.errors import DataError

    try:
        lines = queries_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{queries_file} cannot be read as queries, one a line: {error}") from error
    texts = [line for line in lines if line.strip()][:queries]
    encoder = load_document_encoder(index.manifest.encoder.name, offline=offline)
    index.check_encoder(encoder)
    return index.sample_vectors(sample, seed=seed), encoder.encode_queries(texts)


def _fields(one: Measured) -> dict[str, Any]:
    return {
        "factory": one.factory.name,
        "probes": one.settings.probes,
        "ef": one.settings.ef,
        "refine": one.settings.refine,
        "recall@10": round(one.recall, 4),
        "milliseconds": round(one.milliseconds, 4),
        "bytes_per_vector": round(one.bytes_per_vector, 1),
    }


def shown(settings: SearchSettings) -> str:
    """Settings of a search in words."""
    named = {name: getattr(settings, name) for name in ("probes", "ef", "refine")}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "no settings"


def _table(best: Sequence[Measured], chosen: Measured) -> Table:
    table = Table("", "kind", "settings", "recall@10", "ms a query", "bytes a vector")
    for one in best:
        table.add_row(
            "*" if one == chosen else "",
            one.factory.name,
            shown(one.settings),
            f"{one.recall:.3f}",
            f"{one.milliseconds:.3g}",
            f"{one.bytes_per_vector:,.0f}",
        )
    return table


def _plot(best: Sequence[Measured], chosen: Measured) -> str:
    """Recall upwards, milliseconds to the right in logarithms; a letter is a kind, ``*`` the choice."""
    times = [math.log(one.milliseconds) for one in best]
    low, span = min(times), max(max(times) - min(times), 1e-9)
    floor = min(one.recall for one in best)
    height = max(1 - floor, 1e-9)
    names = sorted({one.factory.name for one in best})
    rows = [[" "] * (_WIDTH + 1) for _ in range(_HEIGHT + 1)]
    for one, at in sorted(zip(best, times, strict=True), key=lambda pair: pair[0] == chosen):
        letter = "*" if one == chosen else chr(ord("a") + names.index(one.factory.name))
        rows[round((1 - one.recall) / height * _HEIGHT)][round((at - low) / span * _WIDTH)] = letter
    sides = [f"{1:.3f}"] + [""] * (_HEIGHT - 1) + [f"{floor:.3f}"]
    lines = [f"{side:>6} |{''.join(row)}" for side, row in zip(sides, rows, strict=True)]
    first, last = f"{math.exp(low):.3g} ms", f"{math.exp(low + span):.3g} ms"
    axis = f"{'':>6} +{'-' * _WIDTH}\n{'':>8}{first}{last:>{_WIDTH - len(first)}}"
    key = "  ".join(f"{chr(ord('a') + number)} {name}" for number, name in enumerate(names))
    return "\n".join(["recall@10", *lines, axis, f"{key}  * chosen"])
