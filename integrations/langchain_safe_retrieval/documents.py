"""LangChain's documents as ours, and ours as LangChain's."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document

from safe_retrieval.errors import InputError
from safe_retrieval.types import Document as IndexDocument


def as_documents(texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None) -> list[Document]:
    """LangChain's documents of n texts, also from an iterator, and n metadata, or none for all of them.

    Raises:
        InputError: there are others than n, or one string in place of several.
    """
    if isinstance(texts, str):
        raise InputError("expected a list of texts, got one string; wrap it in a list")
    contents = list(texts)  # an iterator can be read once only
    if metadatas and len(metadatas) != len(contents):
        raise InputError(f"expected as many metadatas as texts, got {len(metadatas)} and {len(contents)}")
    return [
        Document(page_content=text, metadata=metadata)
        for text, metadata in zip(contents, metadatas or [{}] * len(contents), strict=True)
    ]


def as_ours(documents: Sequence[Document], ids: Sequence[str | None] | None) -> list[IndexDocument]:
    """Documents of ours, each with an id; LangChain embeds the text alone, so there is no title.

    Args:
        documents: n documents.
        ids: n ids, of which missing ones are made up; ``None`` takes the documents' own.

    Raises:
        InputError: ids are not n, or one comes twice.
    """
    given = [document.id for document in documents] if ids is None else list(ids)
    if len(given) != len(documents):
        raise InputError(f"expected one id for each document, got {len(given)} ids and {len(documents)} documents")
    named = [
        IndexDocument(identifier or str(uuid.uuid4()), document.page_content, metadata=document.metadata)
        for document, identifier in zip(documents, given, strict=True)
    ]
    if len({document.id for document in named}) < len(named):  # a later part would silently replace an earlier one
        raise InputError("an id comes twice among the documents to add; ids are unique")
    return named


def as_langchain(document: IndexDocument) -> Document:
    """A document of ours as LangChain's; a title becomes metadata."""
    title = {"title": document.title} if document.title else {}
    return Document(id=document.id, page_content=document.text, metadata={**title, **document.metadata})
