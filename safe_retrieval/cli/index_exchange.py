"""``safe-retrieval index merge | export | import | adopt``: indexes out of other things, and other things of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safe_retrieval.cli._index_options import (
    CorpusOptions,
    CorpusPath,
    IdField,
    IndexFolder,
    Memory,
    Offline,
    Template,
    TextField,
    TitleField,
    memory_bytes,
    remark,
)
from safe_retrieval.errors import InputError

if TYPE_CHECKING:
    from safe_retrieval.index.parquet import Imported

_SHOWN = 10

OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new index.", show_default=False)]
KindOption = Annotated[str | None, typer.Option(help="Kind of index to make, as for build.", show_default="as it was")]
Sample = Annotated[int, typer.Option(min=0, help="Documents that are encoded again to see whose vectors they are.")]


def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="INDEX...", help="Two or more.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new index.", show_default=False)],
    duplicates: Annotated[
        str, typer.Option(help="What is done with an id that two of them have: refuse, first or last.")
    ] = "refuse",
    factory: KindOption = None,
    memory: Memory = None,
) -> None:
    """Merge indexes of one encoder into a new one; nothing is encoded, and the old ones stay as they are."""
    from safe_retrieval.index.assemble import merge_indexes

    bound = memory_bytes(memory)
    manifest = merge_indexes(sources, out, duplicates=duplicates, factory=factory, memory=bound)
    remark(f"{manifest.count:,} documents: {out}")


def export(
    folder: IndexFolder,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .parquet file, or else a BEIR folder.", show_default=False)
    ],
    *,
    vectors: Annotated[bool, typer.Option("--vectors/--no-vectors", help="Write the vectors too (Parquet).")] = True,
) -> None:
    """Write the documents of an index, with their vectors, as Parquet; or without them as a BEIR folder."""
    from safe_retrieval.index.export import export_beir, export_parquet
    from safe_retrieval.index.folder import load_index

    with load_index(folder, read_only=True) as index:
        count = export_parquet(index, out, vectors=vectors) if out.suffix == ".parquet" else export_beir(index, out)
    remark(f"{count:,} documents: {out}")


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A .parquet file with a column of vectors, or a folder that LangChain's FAISS store saved.",
            show_default=False,
        ),
    ],
    out: OutFolder,
    *,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder that made the vectors.", show_default="as an exported file says"),
    ] = None,
    id_field: IdField = None,
    title_field: TitleField = "title",
    text_field: TextField = "text",
    vector_field: Annotated[str, typer.Option(help="Column of the vectors.")] = "vector",
    name: Annotated[str, typer.Option(help="Name of LangChain's two files.")] = "index",
    skip_foreign: Annotated[
        bool,
        typer.Option("--skip-foreign/--no-skip-foreign", help="Leave out LangChain's metadata that is no JSON."),
    ] = False,
    factory: KindOption = None,
    memory: Memory = None,
    sample: Sample = 64,
    offline: Offline = False,
) -> None:
    """Make an index of vectors that are there already; only a sample is encoded, to see whose they are.

    A pickle of LangChain's is read as data and never run; what cannot be taken is said.
    """
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.adopt import import_langchain
    from safe_retrieval.index.parquet import import_parquet
    from safe_retrieval.index.rows import Fields

    is_folder = (source / f"{name}.faiss").is_file()
    if not is_folder and source.suffix != ".parquet":
        raise InputError(f"expected a .parquet file, or a folder with {name}.faiss and {name}.pkl, got {source}")
    if is_folder and encoder is None:
        raise InputError(f"{source} does not say who made its vectors; name the encoder: --encoder")
    bound = memory_bytes(memory)
    fields = Fields(id_field, title_field, text_field)
    if is_folder and bound is not None:
        raise InputError("--memory needs a .parquet file: a folder of LangChain's is read as a whole")
    if is_folder and (fields != Fields() or vector_field != "vector"):
        raise InputError("names of fields need a .parquet file: a folder of LangChain's has its own")
    if not is_folder and skip_foreign:
        raise InputError("--skip-foreign needs a folder of LangChain's: all that a .parquet file holds can be taken")
    made_by = None if encoder is None else load_document_encoder(encoder, offline=offline)
    if is_folder and made_by is not None:
        imported = import_langchain(
            source, out, made_by, name=name, skip_foreign=skip_foreign, factory=factory, sample=sample
        )
    else:
        imported = import_parquet(
            source,
            out,
            encoder=made_by,
            fields=fields,
            vector_field=vector_field,
            factory=factory,
            memory=bound,
            sample=sample,
        )
    _report(imported, out)


def adopt(
    faiss_file: Annotated[
        Path, typer.Argument(metavar="FAISS_FILE", help="As faiss.write_index wrote it.", show_default=False)
    ],
    texts: CorpusPath,
    *,
    encoder: Annotated[str, typer.Option(help="Encoder that made the vectors.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the index.", show_default="FAISS_FILE without suffix")
    ] = None,
    id_field: IdField = None,
    title_field: TitleField = "title",
    text_field: TextField = "text",
    template: Template = None,
    factory: KindOption = None,
    sample: Sample = 64,
    offline: Offline = False,
) -> None:
    """Make an index folder of a FAISS index and its texts, to be asked through a response encoder from then on.

    The i-th text belongs to the i-th vector, or the texts' ids are the numbers that the FAISS index has for its
    vectors. A sample is encoded again to see that the vectors are the encoder's.
    """
    from safe_retrieval.encoder.document_encoders import load_document_encoder
    from safe_retrieval.index.adopt import adopt_index

    folder = faiss_file.with_suffix("") if out is None else out
    if folder == faiss_file:
        raise InputError(f"{faiss_file} has no suffix to leave out; name the folder of the index: --out")
    options = CorpusOptions(
        corpus=texts,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        template=template,
        offline=offline,
    )
    documents = options.documents()
    made_by = load_document_encoder(encoder, offline=offline)
    _report(adopt_index(faiss_file, documents, made_by, folder, factory=factory, sample=sample), folder)


def _report(imported: Imported, out: Path) -> None:
    for sentence in imported.left_out[:_SHOWN]:
        remark(f"left out: {sentence}")
    if len(imported.left_out) > _SHOWN:
        remark(f"left out: {len(imported.left_out) - _SHOWN:,} fields more")
    if imported.scaled:
        remark(f"{imported.scaled:,} vectors were not of length one and have been scaled to it; cosines are the same")
    found = imported.agreement
    if found is not None and found.sample:
        remark(f"{found.sample:,} documents encoded again: cosine to their vectors at least {found.least:.4f}")
    remark(f"{imported.manifest.count:,} documents as {imported.manifest.factory}: {out}")
