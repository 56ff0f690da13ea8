"""``safe-retrieval models``: what is downloaded, and what lies in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.errors import ModelNotFoundError

if TYPE_CHECKING:
    from safe_retrieval.models.inventory import InstalledModel, Verification
    from safe_retrieval.models.record import ModelRecord

app = typer.Typer(help="Download, list, verify and prune models.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Names = Annotated[list[str], typer.Argument(help="Catalog names, hub ids (with or without @revision) or folders.")]
OptionalNames = Annotated[list[str] | None, typer.Argument(help="Models in the cache.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """The catalog, what is installed, and where."""
    from safe_retrieval.models import catalog, inventory
    from safe_retrieval.models.cache import cache_home

    present = {model.name: model for model in inventory.installed()}
    rows = [_row(record, present.pop(record.name, None)) for record in catalog.all_models()]
    rows += [_foreign_row(model) for model in present.values()]
    if as_json:
        print_json({"cache": str(cache_home()), "models": rows})
        return
    from rich.table import Table

    table = Table("name", "kind", "licence", "parameters", "dimension", "download", "installed", box=None)
    for row in rows:
        table.add_row(*_cells(row))
    out().print(table)
    err().print(f"cache: {cache_home()}", markup=False, highlight=False, soft_wrap=True)


def _row(record: ModelRecord, model: InstalledModel | None) -> dict[str, Any]:
    return {
        "name": record.name,
        "kind": record.kind,
        "licence": record.licence,
        "parameters": record.parameters,
        "dimension": record.dimension,
        "layers": record.layers,
        "download_bytes": record.wheels.size,
        "hub_id": record.hub_id,
        "base_model": record.base_model,
        "fingerprint": record.fingerprint,
        "installed_bytes": None if model is None else model.size_bytes,
        "path": None if model is None else str(model.slot.folder),
    }


def _foreign_row(model: InstalledModel) -> dict[str, Any]:
    """A model in the cache that the catalog does not know."""
    manifest = model.manifest
    return {
        "name": model.name,
        "kind": None if manifest is None else manifest.kind,
        "fingerprint": None if manifest is None else manifest.fingerprint,
        "installed_bytes": model.size_bytes,
        "path": str(model.slot.folder),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    parameters, download, installed = (row.get(key) for key in ("parameters", "download_bytes", "installed_bytes"))
    return (
        row["name"],
        row["kind"] or "?",
        row.get("licence") or "?",
        "?" if parameters is None else f"{parameters / 1e6:,.0f} M",
        str(row.get("dimension") or "?"),
        "?" if download is None else _megabytes(download),
        "no" if installed is None else _megabytes(installed),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


@app.command()
def pull(
    names: Names,
    again: Annotated[bool, typer.Option("--again", help="Fetch anew and replace what the cache holds.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection: only check.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download models into the cache; one that is there already is checked."""
    from safe_retrieval.models.fetch import resolve

    pulled = []
    for name in names:
        model = resolve(name, offline=offline, again=again)
        pulled.append({"name": model.name, "path": str(model.path), "fingerprint": model.fingerprint})
        if not as_json:
            typer.echo(f"{model.name}\t{model.fingerprint}\t{model.path}")
    if as_json:
        print_json(pulled)


@app.command()
def path(name: Annotated[str, typer.Argument(help="Catalog name or hub id.")]) -> None:
    """Print the folder of a model that is here already; downloads nothing."""
    from safe_retrieval.models.fetch import resolve

    typer.echo(str(resolve(name, offline=True).path))


@app.command()
def verify(names: OptionalNames = None, as_json: AsJson = False) -> None:
    """Hash every file of the named models, or of all; exit code 1 if one is not as installed."""
    from safe_retrieval.models import inventory

    if not names:
        names = [model.slot.key for model in inventory.installed()]
    if not names:
        raise ModelNotFoundError("the cache holds no models; pull one first: safe-retrieval models pull NAME")
    results = [inventory.verify(name) for name in names]
    if as_json:
        print_json([_verification(result) for result in results])
    for result in results if not as_json else ():
        if not result.faults:
            typer.echo(f"{result.name}\tsound\t{result.files} files")
        for fault in result.faults:
            typer.echo(f"{result.name}\tFAULT\t{result.folder / fault.path} {fault.problem}")
    if any(result.faults for result in results):
        raise typer.Exit(1)


def _verification(result: Verification) -> dict[str, Any]:
    found = [{"path": str(result.folder / fault.path), "problem": fault.problem} for fault in result.faults]
    return {"name": result.name, "path": str(result.folder), "files": result.files, "faults": found}


@app.command()
def prune(
    names: OptionalNames = None,
    everything: Annotated[bool, typer.Option("--all", help="All models, not only unfinished downloads.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove unfinished downloads, and the models named (or all of them)."""
    from safe_retrieval.models import inventory
    from safe_retrieval.models.cache import cache_home

    pruned = inventory.prune(names or (), everything=everything)
    freed = sum(item.freed_bytes for item in pruned)
    if as_json:
        items = [{"key": item.key, "kind": item.kind, "freed_bytes": item.freed_bytes} for item in pruned]
        print_json({"freed_bytes": freed, "items": items})
        return
    for item in pruned:
        typer.echo(f"{item.key}\t{item.kind}\t{_megabytes(item.freed_bytes)}")
    typer.echo(f"freed {_megabytes(freed)} under {Path(cache_home())}")
