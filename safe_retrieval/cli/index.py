"""``safe-retrieval index``: build an index folder, say what is in it, look for faults."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from safe_retrieval.cli._common import err, out, print_json
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER

app = typer.Typer(help="Build, describe and verify index folders.", no_args_is_help=True)

IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.", show_default=False)]


@app.command()
def build(
    corpus: Annotated[
        Path,
        typer.Argument(help="A .jsonl, .csv or .tsv file (.gz too) with _id, text, title; or a BEIR folder."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the index; an index there is replaced.")],
    *,
    encoder: Annotated[
        str, typer.Option(help="Document encoder: catalog name, hub id or folder.")
    ] = DEFAULT_DOCUMENT_ENCODER,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished build, or drop it and start anew.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one forward pass.")] = 32,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.")] = False,
) -> None:
    """Encode a corpus and write an index.

    It may be stopped at any time, even by kill -9: an index that is there stays as it is until the new one is complete,
    and the same command goes on where it stopped. What was encoded is used again where texts and encoder are the same.
    """
    from safe_retrieval.encoder.input import InputEncoder
    from safe_retrieval.index.builder import build_index
    from safe_retrieval.index.corpus import read_corpus

    documents = read_corpus(corpus)  # a corpus that is not there is reported before a model is loaded
    document_encoder = InputEncoder.load(encoder, offline=offline)
    manifest = build_index(documents, document_encoder, folder, batch_size=batch_size, resume=resume)
    reused = f", {manifest.build.reused_shards} of {manifest.build.shards} shards taken over"
    err().print(
        f"{manifest.count:,} documents in {manifest.build.seconds:,.1f} s"
        f"{reused if manifest.build.reused_shards else ''}: {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def info(
    folder: IndexFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Say what an index holds, who built it, and who may ask it."""
    from safe_retrieval.index.manifest import read_manifest

    manifest = read_manifest(folder)
    if as_json:
        print_json(asdict(manifest))
        return
    rows = {
        "documents": f"{manifest.count:,}",
        "encoder": manifest.encoder.name,
        "space": manifest.encoder.space,
        "dimension": str(manifest.dimension),
        "metric": manifest.metric,
        "kind": manifest.factory,
        **{f"{side} prompt": repr(prompt) for side, prompt in manifest.encoder.prompts.items() if prompt},
        "size": f"{sum(file.size for file in manifest.files()) / 1e6:,.1f} MB",
        "created": manifest.build.created,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(manifest.build.versions.items())),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        out().print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def verify(folder: IndexFolder) -> None:
    """Check sizes, hashes, numbering and every vector of an index; exit with 1 if there is a fault."""
    from safe_retrieval.index.folder import verify_index

    faults = verify_index(folder)
    for fault in faults:
        out().print(fault, markup=False, highlight=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)
    out().print(f"{folder}: sound", markup=False, highlight=False, soft_wrap=True)
