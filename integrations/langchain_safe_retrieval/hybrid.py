"""Vectors and words together, over an index of ours."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from langchain_safe_retrieval.documents import as_langchain
from langchain_safe_retrieval.engine import EncodedQuery
from langchain_safe_retrieval.stores import Found
from safe_retrieval.index.filters import Where
from safe_retrieval.retrieval.lexical import LexicalIndex
from safe_retrieval.retrieval.retriever import SafeRetriever
from safe_retrieval.types import Encoder, QueryEncoding

if TYPE_CHECKING:
    from safe_retrieval.index.manifest import IndexManifest
    from safe_retrieval.index.searchable import SearchableIndex


class HybridSearch:
    """Dense hits and BM25 hits fused by reciprocal rank; BM25 is made anew when the index has changed.

    Args:
        index: where the documents are.
        encoder: of the index's space.
    """

    def __init__(self, index: SearchableIndex, encoder: Encoder) -> None:
        self._index = index
        self._encoder = encoder
        self._lock = threading.Lock()
        self._made: tuple[IndexManifest, SafeRetriever] | None = None

    def search(self, encoded: EncodedQuery, k: int, where: Where) -> list[Found]:
        """At most ``k`` documents by falling fused score, which is given in the place of a cosine.

        Raises:
            InputError: ``k`` is below 1, or the filter is faulty.
        """
        retriever = self._current()
        if retriever is None:
            return []
        encoding = QueryEncoding(np.asarray(encoded.vector)[None], None)
        (found,) = retriever.retrieve_encoded(encoding, k=k, queries=[encoded.read], where=where)
        documents = retriever.documents(found)
        return [Found(as_langchain(each), hit.score) for each, hit in zip(documents, found.hits, strict=True)]

    def _current(self) -> SafeRetriever | None:
        state = self._index.frozen()
        with self._lock:
            if not len(state):
                return None
            if self._made is None or self._made[0] != state.manifest:
                retriever = SafeRetriever(state, self._encoder, lexical=LexicalIndex(state.documents()))
                self._made = (state.manifest, retriever)
            return self._made[1]
