"""``safe-retrieval index shards``: the steps of a build one by one, for a cluster's scheduler to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safe_retrieval.cli._index_options import (
    BatchSize,
    ChunkTokens,
    ChunkWords,
    CorpusOptions,
    CorpusPath,
    DatasetConfig,
    Deletes,
    IdField,
    IndexFolder,
    Offline,
    Overlap,
    SkipBad,
    Split,
    Template,
    TextField,
    TitleField,
    memory_bytes,
    rejects_of,
    remark,
)
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER

app = typer.Typer(
    help="Build an index in steps that many machines can share: plan, embed each shard, train, add each shard, merge.",
    no_args_is_help=True,
)

Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="Which shard, counted from 1.", show_default=False)]


@app.command()
def plan(
    corpus: CorpusPath,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the index, seen by all machines.")],
    *,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.", show_default=False)],
    encoder: Annotated[
        str, typer.Option(help="Document encoder: catalog name, hub id or folder.")
    ] = DEFAULT_DOCUMENT_ENCODER,
    factory: Annotated[str, typer.Option(help="Kind of index, as for build.")] = "Flat",
    memory: Annotated[
        str | None, typer.Option(help="Memory for vectors while an index is trained: 4GB.", show_default="no bound")
    ] = None,
    deletes: Deletes = False,
    id_field: IdField = None,
    title_field: TitleField = "title",
    text_field: TextField = "text",
    template: Template = None,
    chunk_words: ChunkWords = None,
    chunk_tokens: ChunkTokens = None,
    overlap: Overlap = 0,
    skip_bad: SkipBad = False,
    dataset_config: DatasetConfig = None,
    split: Split = None,
    batch_size: BatchSize = 32,
    offline: Offline = False,
) -> None:
    """Put the documents on the disk and write the shard manifest."""
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.steps import plan_build

    options = CorpusOptions(
        corpus=corpus,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        template=template,
        chunk_words=chunk_words,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        dataset_config=dataset_config,
        split=split,
        offline=offline,
    )
    bound = memory_bytes(memory)
    with rejects_of(folder, skip_bad) as rejects:
        documents = options.documents(rejects)
        document_encoder = load_document_encoder(encoder, offline=offline)
        planned = plan_build(
            options.pieces(documents, document_encoder),
            document_encoder,
            folder,
            shards=shards,
            factory=factory,
            memory=bound,
            batch_size=batch_size,
            deletes=deletes,
        )
    remark(f"{planned.count:,} documents in {len(planned.shards):,} shards, {planned.factory}: {folder}")


@app.command()
def embed(folder: IndexFolder, *, shard: Shard, offline: Offline = False) -> None:
    """Encode one shard, unless that was done."""
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.plan import read_plan, shard_number
    from safe_retrieval.index.steps import embed_shard

    planned = read_plan(folder)
    number = shard_number(shard, len(planned.shards))
    done = embed_shard(folder, number, load_document_encoder(planned.encoder.name, offline=offline))
    remark(f"shard {shard}: {'encoded' if done else 'was there'}")


@app.command()
def train(folder: IndexFolder) -> None:
    """Train the index on a sample of all shards, unless that was done."""
    from safe_retrieval.index.steps import train_index

    remark("trained" if train_index(folder) else "nothing to train")


@app.command()
def add(folder: IndexFolder, *, shard: Shard) -> None:
    """Put one shard into the lists of the trained index, unless that was done."""
    from safe_retrieval.index.plan import read_plan, shard_number
    from safe_retrieval.index.steps import add_shard

    done = add_shard(folder, shard_number(shard, len(read_plan(folder).shards)))
    remark(f"shard {shard}: {'added' if done else 'nothing to do'}")


@app.command()
def merge(folder: IndexFolder) -> None:
    """Join everything on the disk and make it the index."""
    from safe_retrieval.index.steps import merge_index

    manifest = merge_index(folder)
    remark(f"{manifest.count:,} documents: {folder}")
