"""LangChain's ``VectorStore`` over an index folder of ours: exact cosines, pushed-down filters, no pickle.

::

    store = SafeRetrievalVectorStore.from_texts(texts, SafeRetrievalEmbeddings(arm="blend"), path="my-index")
    store = SafeRetrievalVectorStore.load_local("my-index", SafeRetrievalEmbeddings(arm="blend"))
    store.similarity_search("who wrote the Iliad?", k=3, filter={"year": {"$gte": 1990}})
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from copy import copy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_safe_retrieval.documents import as_documents, as_langchain, as_ours
from langchain_safe_retrieval.foreign import (
    AGREEMENT,
    SAMPLE,
    agreement,
    as_rows,
    document_encoder,
    is_named_space,
)
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.index.filters import Where
from safe_retrieval.types import Encoder, FloatMatrix, Hit

if TYPE_CHECKING:
    from langchain_safe_retrieval.retriever import SafeRetriever
    from safe_retrieval.index.searchable import SearchableIndex

MOST_AT_ONCE = 1_000
"""Documents that are embedded and written in one go."""


class SafeRetrievalVectorStore(VectorStore):
    """Documents and their vectors in an index folder.

    Scores are cosines, in [-1, 1]; relevance scores are (cosine + 1) / 2. ``filter`` is the mapping that
    :mod:`safe_retrieval.index.filters` describes, and a search looks at the matching documents alone, so k documents
    come back whenever k match. Adding a document with an id that is there replaces it. May be used from several
    threads.

    Args:
        index: an opened index.
        embedding: any LangChain embeddings of the index's space; with :class:`SafeRetrievalEmbeddings` queries go
            through the response encoder.

    Raises:
        EncoderMismatchError: the index's documents were embedded by another model.
    """

    def __init__(self, index: SearchableIndex, embedding: Embeddings) -> None:
        self.index = index
        self.embedding = embedding
        check_space(index, document_encoder(embedding))

    @classmethod
    def create(cls, path: str | Path, embedding: Embeddings) -> Self:
        """An empty store in a new folder.

        Raises:
            IndexFolderError: there is an index already, or the folder holds something else.
        """
        from safe_retrieval.index.folder import create_index

        return cls(create_index(path, document_encoder(embedding)), embedding)

    @classmethod
    def load_local(
        cls, path: str | Path, embedding: Embeddings, *, verify: bool = True, read_only: bool = False
    ) -> Self:
        """Open an index folder, whoever made it: this class, ``build_index`` or the command line.

        Files are checked against the hashes in the manifest before they are read; nothing in them can run code.

        Args:
            path: the folder.
            embedding: as for the class.
            verify: compare hashes, and not only sizes and counts.
            read_only: refuse changes.

        Raises:
            IndexFolderError: there is no sound index.
            EncoderMismatchError: its documents were embedded by another model.
        """
        from safe_retrieval.index.folder import load_index

        return cls(load_index(path, verify=verify, read_only=read_only), embedding)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        **unknown: Any,
    ) -> Self:
        """A store of these texts.

        Args:
            texts: n texts.
            embedding: as for the class.
            metadatas: n mappings of JSON values.
            ids: n strings; missing ones are made up.
            path: a new folder; ``None`` takes a temporary one that lives as long as the store and its copies
                (:meth:`save_local` keeps it).
            unknown: refused.

        Raises:
            InputError, IndexFolderError: as :meth:`create` and :meth:`add_documents`. Nothing is left in ``path`` then.
        """
        _refuse(unknown)
        with ExitStack() as on_failure:
            folder = tempfile.mkdtemp(prefix="safe-retrieval-") if path is None else path
            if path is None:
                on_failure.callback(shutil.rmtree, folder, ignore_errors=True)
            store = cls.create(folder, embedding)
            if path is not None:  # made by this call: a part of the texts must not pass for all of them
                on_failure.callback(shutil.rmtree, folder, ignore_errors=True)
            on_failure.callback(store.index.close)
            store.add_texts(texts, metadatas, ids=ids)
            on_failure.pop_all()
        if path is None:  # with the index, which copies of the store share
            weakref.finalize(store.index, shutil.rmtree, folder, ignore_errors=True)
        return store

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy over the same index and models.

        Chains are copied whole; an open index has a lock and files that cannot be, and a second one would not see what
        is added to the first.
        """
        return copy(self)

    def save_local(self, path: str | Path) -> None:
        """Copy the index to another folder, in the place of an index that may be there.

        Raises:
            IndexFolderError: the folder holds something else, or cannot be written.
        """
        from safe_retrieval.index.copying import copy_index

        copy_index(self.index, path)

    @property
    def embeddings(self) -> Embeddings:
        """What embeds queries and documents."""
        return self.embedding

    # Changing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **rest: Any,
    ) -> list[str]:
        """As :meth:`add_documents`, of texts.

        Args:
            texts: n texts, also from an iterator.
            metadatas: n mappings of JSON values; ``None`` or an empty list is none for all of them.
            ids: as for :meth:`add_documents`.
            rest: passed on.

        Raises:
            InputError: metadatas are not n, or as for :meth:`add_documents`, which raises the other errors too.
        """
        return self.add_documents(as_documents(texts, metadatas), ids=ids, **rest)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **rest: Any,
    ) -> list[str]:
        """As :meth:`add_texts`."""
        return await self.aadd_documents(as_documents(texts, metadatas), ids=ids, **rest)

    def add_documents(self, documents: list[Document], *, ids: list[str] | None = None, **_: Any) -> list[str]:
        """Add documents, in the place of those with the same ids; they are left as they are.

        Args:
            documents: n documents; metadata must be JSON.
            ids: n strings; ``None`` takes the documents' own, and makes up those that are missing.

        Returns:
            n ids.

        Raises:
            InputError: ids are faulty or not n, or an id comes twice.
            DataError: metadata is not JSON.
            IndexFolderError: the folder cannot be written, or another process is writing it.
        """
        named = as_ours(documents, ids)
        for start in range(0, len(named), MOST_AT_ONCE):
            part = named[start : start + MOST_AT_ONCE]
            self.index.upsert(part, self._rows(self.embedding.embed_documents([document.text for document in part])))
        return [document.id for document in named]

    async def aadd_documents(self, documents: list[Document], *, ids: list[str] | None = None, **_: Any) -> list[str]:
        """As :meth:`add_documents`."""
        named = as_ours(documents, ids)
        for start in range(0, len(named), MOST_AT_ONCE):
            part = named[start : start + MOST_AT_ONCE]
            rows = self._rows(await self.embedding.aembed_documents([document.text for document in part]))
            await asyncio.to_thread(self.index.upsert, part, rows)
        return [document.id for document in named]

    def delete(self, ids: list[str] | None = None, **unknown: Any) -> bool:
        """Delete documents; ids that are not there are left out, ``None`` deletes all.

        Returns:
            True.

        Raises:
            InputError: there are other arguments: a filter that went unread would have everything deleted.
            IndexFolderError: the folder cannot be written, or another process is writing it.
        """
        if unknown:
            raise InputError(
                f"unknown arguments: {', '.join(unknown)}; delete takes ids alone: ask the index for those that fulfil "
                "a filter, store.delete(store.index.ids(where=...)), or give nothing to delete everything"
            )
        self.index.delete(self.index.ids() if ids is None else ids)
        return True

    # Asking

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of those ids that are there, in the order asked."""
        found = self.index.get(ids)
        return [as_langchain(found[identifier]) for identifier in dict.fromkeys(ids) if identifier in found]

    def similarity_search(self, query: str, k: int = 4, *, filter: Where = None, **unknown: Any) -> list[Document]:  # noqa: A002  # the host's word
        """The k documents nearest to a query.

        Raises:
            InputError: ``k`` is below 1, the filter is faulty, or there are other arguments.
        """
        return _without_scores(self.similarity_search_with_score(query, k, filter=filter, **unknown))

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[Document]:
        """As :meth:`similarity_search`."""
        return _without_scores(await self.asimilarity_search_with_score(query, k, filter=filter, **unknown))

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search`, each with its cosine to the query."""
        vector = self.embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter=filter, **unknown)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search_with_score`."""
        vector = await self.embedding.aembed_query(query)
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, k, filter=filter, **unknown)

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[Document]:
        """The k documents nearest to a vector, whose length does not matter."""
        return _without_scores(self.similarity_search_with_score_by_vector(embedding, k, filter=filter, **unknown))

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search_by_vector`, each with its cosine."""
        _refuse(unknown)
        return self._hits(lambda index, rows: index.search(rows, k, where=filter), embedding)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[Document]:
        """Documents that are near a query and not all alike (Carbonell and Goldstein, 1998).

        Args:
            query: the query.
            k: most documents.
            fetch_k: how many of the nearest are chosen from.
            lambda_mult: 1 asks for the nearest alone, 0 for those farthest from one another.
            filter: as in :meth:`similarity_search`.
            unknown: refused.

        Raises:
            InputError: as :meth:`similarity_search`, or ``lambda_mult`` is outside [0, 1].
        """
        vector = self.embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter=filter, **unknown)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[Document]:
        """As :meth:`max_marginal_relevance_search`."""
        vector = await self.embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter, **unknown
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Where = None,  # noqa: A002  # the host's word
        **unknown: Any,
    ) -> list[Document]:
        """As :meth:`max_marginal_relevance_search`, of a vector."""
        _refuse(unknown)

        def search(index: SearchableIndex, rows: FloatMatrix) -> list[list[Hit]]:
            return index.search_diverse(rows, k, candidates=fetch_k, balance=lambda_mult, where=filter)

        return _without_scores(self._hits(search, embedding))

    def as_safe_retriever(self, **settings: Any) -> SafeRetriever:
        """A retriever with the refusal gate over this store; settings are those of :class:`SafeRetriever`."""
        from langchain_safe_retrieval.retriever import SafeRetriever

        return SafeRetriever.from_vectorstore(self, **settings)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return _relevance

    def _hits(
        self, search: Callable[[SearchableIndex, FloatMatrix], list[list[Hit]]], embedding: Sequence[float]
    ) -> list[tuple[Document, float]]:
        state = self.index.frozen()  # hits and documents of one state, whatever is deleted meanwhile
        (hits,) = search(state, self._rows([embedding]))
        documents = state.get_documents([hit.id for hit in hits])
        return [(as_langchain(document), hit.score) for document, hit in zip(documents, hits, strict=True)]

    def _rows(self, vectors: Any) -> FloatMatrix:
        return as_rows(vectors, self.index.dimension)


def check_space(index: SearchableIndex, encoder: Encoder) -> None:
    """Make sure that an encoder's vectors belong into an index.

    Fingerprints decide where both sides have one. A LangChain object has only a name, so there the first documents are
    embedded again.

    Raises:
        EncoderMismatchError: they do not.
    """
    space = index.manifest.encoder.space
    if space == encoder.space and index.dimension == encoder.dimension:
        return
    named = is_named_space(space) or is_named_space(encoder.space)
    sample = list(islice(index.documents(), SAMPLE)) if named else []
    if sample:
        vectors = index.get_vectors([document.id for document in sample])
        found = agreement(encoder, [document.content for document in sample], vectors)
        if found >= AGREEMENT:
            return
        raise EncoderMismatchError(
            f"the vectors in {index.path}, by {index.manifest.encoder.name}, have a median cosine of {found:.2f} to "
            f"those of {encoder.name}; open it with the embeddings that made it"
        )
    index.check_encoder(encoder)


def _without_scores(found: Sequence[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in found]


def _relevance(cosine: float) -> float:
    # Rounding may take the cosine of equal vectors past 1, of which the host would warn.
    return float(np.clip((cosine + 1) / 2, 0, 1))


def _refuse(unknown: dict[str, Any]) -> None:
    """A misspelt filter must not be a search without a filter."""
    if unknown:
        raise InputError(
            f"unknown arguments: {', '.join(unknown)}; a search takes k and filter, and one by maximal marginal "
            "relevance fetch_k and lambda_mult as well"
        )
