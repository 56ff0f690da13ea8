"""``safe-retrieval index find``: documents by their words and metadata, without any vector."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from safe_retrieval.cli._common import filter_from, out, print_json
from safe_retrieval.cli._index_options import IndexFolder, remark
from safe_retrieval.errors import InputError
from safe_retrieval.types import Document


def find(
    folder: IndexFolder,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD...", help="Words that title and text have, all of them.")
    ] = None,
    *,
    phrase: Annotated[bool, typer.Option("--phrase", help="The words stand one behind the other.")] = False,
    where: Annotated[
        str | None, typer.Option(help='What the metadata must fulfil, as JSON: \'{"year": {"$gte": 1990}}\'.')
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Most documents that are printed.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the documents with these words and this metadata, in the order in which they were written.

    Case and accents do not count. For the documents that are best about something, ask with search.
    """
    from safe_retrieval.index.folder import load_index

    conditions: list[dict[str, Any]] = []
    if words:
        conditions.append({"$phrase" if phrase else "$words": " ".join(words)})
    metadata = filter_from(where)
    if metadata is not None:
        conditions.append(metadata)
    if not conditions:
        raise InputError("expected words to look for, a --where, or both")
    with load_index(folder, read_only=True) as index:
        ids = index.ids(where={"$and": conditions})
        documents = index.get_documents(ids[:k])
    if as_json:
        print_json([document_fields(document) for document in documents])
    else:
        for document in documents:
            line = f"{document.id}  {document.title}  {' '.join(document.text.split())}"
            out().print(line, markup=False, highlight=False, soft_wrap=True)
    remark(f"{len(ids):,} documents found")


def document_fields(document: Document) -> dict[str, Any]:
    """A document as JSON."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }
