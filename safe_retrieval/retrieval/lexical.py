"""BM25 over the documents' words, by bm25s: the lexical arm, and the lexical half of a hybrid."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from safe_retrieval.encoder.texts import clean_texts
from safe_retrieval.errors import InputError
from safe_retrieval.index.vectors import check_ids, check_k
from safe_retrieval.types import Document, Hit


class LexicalIndex:
    """BM25 in memory.

    The formula is Lucene's (k1 = 1.5, b = 0.75; Kamphuis et al. 2020, "Which BM25 do you mean?"); words are lower-cased
    runs of two or more letters or digits, English stop words are left out, nothing is stemmed.

    Args:
        documents: the corpus; ``content`` (title and text) is what is indexed. Ids are unique.

    Raises:
        InputError: there are no documents, or an id comes twice.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        import bm25s

        ids: list[str] = []
        contents: list[str] = []
        for document in documents:
            ids.append(document.id)
            contents.append(document.content)
        if not ids:
            raise InputError("expected at least one document to index by its words, got none")
        self._ids = check_ids(ids)
        # NumPy throughout: bm25s would otherwise compile with numba where that happens to be installed.
        self._bm25: Any = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy", csc_backend="numpy")
        words = _words(contents)
        self._known: set[str] = set().union(*words)
        if self._known:  # bm25s cannot index a corpus without a single word
            self._bm25.index(words, show_progress=False)

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, queries: Sequence[str], k: int = 10, *, within: Container[str] | None = None) -> list[list[Hit]]:
        """The documents that share words with each query.

        Args:
            queries: q texts; one without a word that the corpus has gets no hits.
            k: most hits for a query.
            within: ids that alone may be hits, such as those that a filter allows; word counts are the corpus's still.

        Returns:
            One list for each query: at most ``k`` hits by falling BM25 score, ties by document position. A document
            that shares no word is no hit.

        Raises:
            InputError: a query is not a string, or ``k`` is below 1.
        """
        check_k(k)
        return [self._best(words, k, within) for words in _words(clean_texts(queries))]

    def _best(self, words: list[str], k: int, within: Container[str] | None) -> list[Hit]:
        known = [word for word in words if word in self._known]
        if not known:
            return []
        scores = self._bm25.get_scores(known)  # (n,) float32
        matching = np.flatnonzero(scores > 0)
        best = matching[np.lexsort((matching, -scores[matching]))]
        allowed = (position for position in best if within is None or self._ids[position] in within)
        return [Hit(self._ids[position], float(scores[position])) for position in islice(allowed, k)]


def _words(texts: list[str]) -> list[list[str]]:
    import bm25s

    words: list[list[str]] = bm25s.tokenize(texts, stopwords="english", return_ids=False, show_progress=False)
    return words
