"""BM25 as a plain retriever, so that it is audited as any foreign retriever would be."""

from __future__ import annotations

from collections.abc import Sequence

from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.types import Document, Retrieval


class LexicalRetriever:
    """A :class:`~safe_retrieval.types.Retriever` over words alone.

    Args:
        documents: the corpus.
    """

    name = "bm25"

    def __init__(self, documents: Sequence[Document]) -> None:
        self._index = LexicalIndex(documents)

    def retrieve(self, queries: Sequence[str], *, k: int = 10) -> list[Retrieval]:
        """One retrieval a query; a query that shares no word with the corpus gets no hits."""
        return [Retrieval(tuple(hits)) for hits in self._index.search(queries, k)]
