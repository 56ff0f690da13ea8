"""What an earlier version of a document left in an index under other ids than the new one has.

A document that was cut into pieces and has fewer of them now, or is indexed as a whole from now on, or the other way
round: its old pieces must go, or a search would go on finding what the document no longer says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safe_retrieval.index.chunking import DOCUMENT_FIELD, is_piece
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.types import Document


class Versions:
    """Follows documents as they are written into an index, lot by lot; pieces of one follow one another.

    Args:
        index: which may hold earlier versions.
    """

    def __init__(self, index: SearchableIndex) -> None:
        self._index = index
        self._written: dict[str, set[str]] = {}

    def outdated_by(self, documents: Sequence[Document]) -> list[str]:
        """Ids of what is left of the documents that are complete with this lot; of the last one, more may come."""
        for document in documents:
            self._written.setdefault(_source(document), set()).add(document.id)
        return self._left(list(self._written)[:-1])

    def outdated_at_last(self) -> list[str]:
        """The same of the last document; nothing more comes."""
        return self._left(list(self._written))

    def _left(self, sources: Iterable[str]) -> list[str]:
        left: list[str] = []
        for source in sources:
            written = self._written.pop(source)
            left += [each for each in (source, *self._index.pieces_of(source)) if each not in written]
        return left


def _source(document: Document) -> str:
    """The id of the document that this one is a piece of, or its own."""
    source = document.metadata.get(DOCUMENT_FIELD)
    return source if isinstance(source, str) and is_piece(document.id, document.metadata, source) else document.id
