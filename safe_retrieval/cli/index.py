"""``safe-retrieval index``: build an index folder, change it, say what is in it, look for faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safe_retrieval.cli import index_exchange, index_find, index_shards, index_tune
from safe_retrieval.cli._common import out, print_json
from safe_retrieval.cli._index_options import (
    BatchSize,
    ChunkTokens,
    ChunkWords,
    CorpusOptions,
    CorpusPath,
    DatasetConfig,
    Deletes,
    Engine,
    IdField,
    IndexFolder,
    Memory,
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
from safe_retrieval.cli.index_find import document_fields
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER

if TYPE_CHECKING:
    from safe_retrieval.index.manifest import IndexManifest
    from safe_retrieval.types import Document, Encoder

app = typer.Typer(help="Build, change, describe and verify index folders.", no_args_is_help=True)
app.command("find")(index_find.find)
app.command("merge")(index_exchange.merge)
app.command("export")(index_exchange.export)
app.command("import")(index_exchange.import_)
app.command("tune")(index_tune.tune)
app.add_typer(index_shards.app, name="shards")
app.command("adopt")(index_exchange.adopt)

_CHUNK = 512
"""Documents that become visible at once."""


@app.command()
def build(
    corpus: CorpusPath,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the index; an index there is replaced.")],
    *,
    encoder: Annotated[
        str, typer.Option(help="Document encoder: catalog name, hub id or folder.")
    ] = DEFAULT_DOCUMENT_ENCODER,
    factory: Annotated[
        str,
        typer.Option(
            help="Kind of index: auto, Flat, HNSW<links>, SQ8, RaBitQ, IVF<lists>,Flat|SQ8|RaBitQ|PQ<slices>."
        ),
    ] = "Flat",
    memory: Memory = None,
    deletes: Deletes = False,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of shards to cut documents into.",
            show_default="2048 documents each; with --engine ray, 4 for each worker, of 65536 documents at most",
        ),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Encode in this process, or in several by Ray.")] = Engine.LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that encode, with --engine ray.", show_default="2")
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs of each of them, with --engine ray; a fraction shares one.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished build, or drop it and start anew.")
    ] = True,
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
    """Encode a corpus and write an index.

    It may be stopped at any time, even by kill -9: an index that is there stays as it is until the new one is complete,
    and the same command goes on where it stopped. What was encoded is used again where texts and encoder are the same.
    """
    from safe_retrieval.encoder.document_encoders import load_document_encoder

    began = time.monotonic()
    bound = memory_bytes(memory)
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
    with rejects_of(folder, skip_bad) as rejects:
        documents = options.documents(rejects)  # one that is not there is reported before a model is loaded
        document_encoder = load_document_encoder(encoder, offline=offline)
        build_with = _builder(engine, shards, workers, gpus, partial(load_document_encoder, encoder, offline=offline))
        manifest = build_with(
            options.pieces(documents, document_encoder),
            document_encoder,
            folder,
            factory=factory,
            memory=bound,
            batch_size=batch_size,
            deletes=deletes,
            resume=resume,
        )
    if factory == "auto":
        _explain(manifest.count, manifest.dimension, bound, deletes=deletes)
    reused = f", {manifest.build.reused_shards} of {manifest.build.shards} shards taken over"
    remark(
        f"{manifest.count:,} documents in {time.monotonic() - began:,.1f} s"
        f"{reused if manifest.build.reused_shards else ''}: {folder}"
    )


def _builder(
    engine: Engine, shards: int | None, workers: int | None, gpus: float, load_encoder: Callable[[], Encoder]
) -> Callable[..., IndexManifest]:
    """What builds an index with that engine and so many shards."""
    if engine is Engine.RAY:
        from safe_retrieval.index.distributed import build_with_ray

        def build_remotely(documents: Iterator[Document], _: Encoder, out: Path, **rest: Any) -> IndexManifest:
            return build_with_ray(documents, load_encoder, out, shards=shards, workers=workers or 2, gpus=gpus, **rest)

        return build_remotely
    if gpus:
        raise InputError(f"--gpus {gpus:g} needs --engine ray; a build in this process takes a GPU where there is one")
    if workers is not None:
        raise InputError(f"--workers {workers} needs --engine ray; a build in this process uses all cores by itself")
    if shards is not None:
        from safe_retrieval.index.steps import build_in_shards

        return partial(build_in_shards, shards=shards)
    from safe_retrieval.index.builder import build_index

    return build_index


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
        "searched with": "its kind's own rule" if manifest.search is None else index_tune.shown(manifest.search),
        **{f"{side} prompt": repr(prompt) for side, prompt in manifest.encoder.prompts.items() if prompt},
        "size": f"{sum(file.size for file in manifest.files()) / 1e6:,.1f} MB",
        "segments": str(len(manifest.segments)),
        "deleted": f"{sum(segment.deleted_count for segment in manifest.segments):,} still on the disk",
        "created": manifest.build.created,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(manifest.build.versions.items())),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        out().print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def verify(
    folder: IndexFolder,
    *,
    sample: Annotated[
        int, typer.Option(min=0, help="Documents, drawn at random, that are encoded again; 0 loads no encoder.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    offline: Offline = False,
) -> None:
    """Check sizes, hashes, ids both ways, every vector, and a sample against its texts; exit with 1 at a fault."""
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.folder import load_index, verify_index
    from safe_retrieval.index.recheck import reencoding_faults

    faults = verify_index(folder)
    if not faults and sample:
        with load_index(folder, verify=False, read_only=True) as index:
            encoder = load_document_encoder(index.manifest.encoder.name, offline=offline)
            faults = reencoding_faults(index, encoder, sample=sample, seed=seed)
            remark(f"{min(sample, len(index)):,} documents encoded again with {encoder.name}")
    for fault in faults:
        out().print(fault, markup=False, highlight=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)
    out().print(f"{folder}: sound", markup=False, highlight=False, soft_wrap=True)


@app.command()
def add(
    folder: IndexFolder,
    corpus: CorpusPath,
    *,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace/--no-replace",
            help="Replace documents of the same id, pieces included, or refuse them.",
        ),
    ] = False,
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
    """Add the documents of a corpus to an index that is there, with the encoder that built it.

    Documents go in some hundred at a time, each lot as one step. After a stop, --replace takes the same corpus again.
    """
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.folder import load_index
    from safe_retrieval.index.rejects import each_once
    from safe_retrieval.index.versions import Versions

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
    with rejects_of(folder, skip_bad) as rejects, load_index(folder) as index:
        documents = each_once(options.documents(rejects))
        encoder = load_document_encoder(index.manifest.encoder.name, offline=offline)
        index.check_encoder(encoder)
        remaining = options.pieces(documents, encoder)
        versions = Versions(index)
        added = replaced = 0
        while chunk := list(islice(remaining, _CHUNK)):
            vectors = encoder.encode_documents([document.content for document in chunk], batch_size=batch_size)
            if replace:
                replaced += index.upsert(chunk, vectors, without=versions.outdated_by(chunk))
            else:
                index.add(chunk, vectors)
            added += len(chunk)
        if replace:
            replaced += index.delete(versions.outdated_at_last())
        remark(f"{added:,} documents added in the place of {replaced:,}; {len(index):,} in all")


@app.command()
def delete(
    folder: IndexFolder,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of documents.", show_default=False)],
) -> None:
    """Delete documents by id; ids that are not there are left out and said so."""
    from safe_retrieval.index.folder import load_index

    with load_index(folder) as index:
        deleted = index.delete(ids)
        remark(f"{deleted:,} documents deleted, {len(set(ids)) - deleted:,} were not there; {len(index):,} left")


@app.command()
def get(
    folder: IndexFolder,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of documents.", show_default=False)],
) -> None:
    """Print documents by id, as JSON; an id that is not there is an error."""
    from safe_retrieval.index.folder import load_index

    with load_index(folder, read_only=True) as index:
        print_json([document_fields(document) for document in index.get_documents(ids)])


@app.command()
def compact(
    folder: IndexFolder,
    *,
    factory: Annotated[
        str | None, typer.Option(help="Kind of index to make, as for build.", show_default="the index's own")
    ] = None,
    memory: Memory = None,
) -> None:
    """Write an index anew without its deleted documents, in one piece, or as another kind; nothing is encoded."""
    from safe_retrieval.index.folder import load_index

    bound = memory_bytes(memory)
    with load_index(folder) as index:
        before = sum(file.size for file in index.manifest.files())
        index.compact(factory=factory, memory=bound)
        after = sum(file.size for file in index.manifest.files())
        remark(f"{len(index):,} documents, {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")


@app.command()
def advise(
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of documents.", show_default=False)],
    dimension: Annotated[int, typer.Argument(min=1, help="Length of a vector.", show_default=False)],
    *,
    memory: Annotated[
        str | None, typer.Option(help="Memory that the vectors may take: 4GB.", show_default="no bound")
    ] = None,
    deletes: Deletes = False,
) -> None:
    """Say which kind of index fits, and why."""
    _explain(count, dimension, memory_bytes(memory), deletes=deletes)


def _explain(count: int, dimension: int, memory: int | None, *, deletes: bool) -> None:
    from safe_retrieval.index.advisor import advise as choose

    advice = choose(count, dimension, memory=memory, deletes=deletes)
    out().print("\n".join((advice.factory.name, *advice.reasons)), markup=False, highlight=False, soft_wrap=True)
