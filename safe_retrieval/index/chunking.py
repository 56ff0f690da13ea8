"""Long documents cut into overlapping pieces, each of which knows its document.

A piece is a stretch of the document's own text, from the first character of its first word or token to the last one of
its last: nothing is rewritten, so a piece can be found in the document again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from safe_retrieval.encoder.texts import readable
from safe_retrieval.errors import InputError
from safe_retrieval.types import Document

Spans: TypeAlias = Callable[[str], list[tuple[int, int]]]
"""Start and end, in characters, of each word or token of a text, in order."""

DOCUMENT_FIELD = "document"
"""Metadata field that names the document a piece is from."""
CHUNK_FIELD = "chunk"
"""Metadata field that numbers the pieces of a document, from 0."""

_WORD = re.compile(r"\S+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Words as white space separates them."""
    return [found.span() for found in _WORD.finditer(text)]


def token_spans(tokenizer: Any) -> Spans:
    """Tokens of a fast tokenizer of transformers; special tokens are left out.

    Raises:
        InputError: the tokenizer cannot say where its tokens are.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"expected a fast tokenizer, which knows where its tokens are, got {type(tokenizer).__name__}")

    def spans(text: str) -> list[tuple[int, int]]:
        # one character for one, so places stay; a lone surrogate would end the tokenizer
        encoded = tokenizer(readable(text), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(start, end) for start, end in encoded["offset_mapping"] if end > start]

    return spans


def chunked(
    documents: Iterable[Document], *, size: int, overlap: int = 0, spans: Spans = word_spans
) -> Iterator[Document]:
    """Cut documents into pieces of at most ``size`` words or tokens.

    Args:
        documents: streamed.
        size: words or tokens of a piece.
        overlap: how many of them a piece shares with the one before it; less than ``size``.
        spans: where the words or tokens of a text are.

    Yields:
        The pieces in order, with ids ``<document>#0``, ``<document>#1``, ..., the document's title and metadata, and
        two fields more: ``document`` and ``chunk``. A text without words is one piece.

    Raises:
        InputError: the sizes do not fit together, or a document has a field of one of those names already.
    """
    if size < 1 or not 0 <= overlap < size:
        raise InputError(f"expected a size of at least 1 and a smaller overlap, got size {size}, overlap {overlap}")
    for document in documents:
        taken = {DOCUMENT_FIELD, CHUNK_FIELD} & set(document.metadata)
        if taken:
            raise InputError(f"document {document.id!r} has a field {min(taken)!r}, which chunking sets; rename it")
        for number, (start, end) in enumerate(_pieces(spans(document.text), len(document.text), size, overlap)):
            yield Document(
                f"{document.id}#{number}",
                document.text[start:end],
                document.title,
                {**document.metadata, DOCUMENT_FIELD: document.id, CHUNK_FIELD: number},
            )


def is_piece(identifier: str, metadata: Mapping[str, Any], document: str) -> bool:
    """Whether a document of that id and metadata is a piece of another one, as :func:`chunked` names it."""
    return metadata.get(DOCUMENT_FIELD) == document and identifier == f"{document}#{metadata.get(CHUNK_FIELD)}"


def piece_bounds(document: str) -> tuple[str, str]:
    """The ids of a document's pieces are not less than the first of these, and less than the second."""
    return f"{document}#", f"{document}{chr(ord('#') + 1)}"


def _pieces(units: list[tuple[int, int]], length: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    if not units:
        yield 0, length
        return
    for first in range(0, max(1, len(units) - overlap), size - overlap):
        last = min(first + size, len(units)) - 1
        yield units[first][0], units[last][1]
