"""Vector stores of others, asked by vector: what is stored in them, and what their scores mean as cosines.

Nothing of a host is imported here: a store is known by the name of its class, so only hosts that the user has imported
are ever needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_safe_retrieval.foreign import AGREEMENT, PROBES, SAMPLE, agreement
from safe_retrieval.errors import EncoderMismatchError, InputError
from safe_retrieval.types import Encoder


class Found(NamedTuple):
    """A document that a store found, and its cosine to the query, or ``None`` where the store does not say."""

    document: Document
    cosine: float | None


class Stored(NamedTuple):
    """Some documents of a store, with their vectors."""

    texts: list[str]
    vectors: list[Any]


class AskedStore(Protocol):
    """What a retriever asks of a vector store."""

    needs_unit_norm: bool
    """Whether its order is that of cosines for vectors of unit norm alone."""

    def stored(self, count: int) -> Stored:
        """The first ``count`` documents with the vectors that are searched, fewer if there are fewer."""

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002  # the host's word
        """At most ``k`` documents for a vector of unit norm, best first; ``filter`` as the store takes it."""


class _InMemory:
    needs_unit_norm = False

    def __init__(self, store: Any) -> None:
        self._store = store

    def stored(self, count: int) -> Stored:
        rows = list(islice(self._store.store.values(), count))
        return Stored([row["text"] for row in rows], [row["vector"] for row in rows])

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        found = self._store.similarity_search_with_score_by_vector(vector, k=k, filter=filter)
        return [Found(document, float(score)) for document, score in found]


class _CommunityFaiss:
    needs_unit_norm = True

    def __init__(self, store: Any) -> None:
        import faiss

        self._store = store
        self._squared = {faiss.METRIC_L2: True, faiss.METRIC_INNER_PRODUCT: False}.get(store.index.metric_type)
        if self._squared is None:
            raise InputError(f"expected a FAISS index by L2 or inner product, got metric {store.index.metric_type}")

    def stored(self, count: int) -> Stored:
        positions, vectors = self._some(count)
        identifiers = [self._store.index_to_docstore_id[position] for position in positions]
        return Stored([self._store.docstore.search(each).page_content for each in identifiers], vectors)

    def _some(self, count: int) -> tuple[list[int], list[Any]]:
        """Positions and vectors of some documents; none of an index that does not give its vectors back."""
        import faiss

        index = self._store.index
        positions = list(islice(self._store.index_to_docstore_id, count))
        try:
            return positions, [index.reconstruct(int(position)) for position in positions]
        except RuntimeError:
            if not isinstance(index, faiss.IndexIVF):
                return [], []
        # An inverted file without a map from position to vector still reads out the vectors that a search finds; making
        # the map would change the user's index, or take a copy of all of it.
        anywhere = np.zeros((1, index.d), dtype=np.float32)
        every_list = faiss.SearchParametersIVF()
        every_list.nprobe = index.nlist
        _, (found,), (vectors,) = index.search_and_reconstruct(anywhere, count, params=every_list)
        there = [(int(position), vector) for position, vector in zip(found, vectors, strict=True) if position >= 0]
        return [position for position, _ in there], [vector for _, vector in there]

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        # This store filters what it has found, so it has to find everything to lose nothing; of an inverted file, that
        # is everything in the lists that its nprobe looks at.
        every = self._store.index.ntotal
        if not every:
            return []  # FAISS refuses to look for none
        found = self._store.similarity_search_with_score_by_vector(vector, k=k, filter=filter, fetch_k=every)
        return [Found(document, float(1 - score / 2 if self._squared else score)) for document, score in found]


class _Chroma:
    def __init__(self, store: Any) -> None:
        self._store = store
        configuration = store._collection.configuration  # there is no public way to the metric
        spaces = [(configuration.get(kind) or {}).get("space") for kind in ("hnsw", "spann")]
        self._space = next((space for space in spaces if space), "l2")
        self.needs_unit_norm = self._space != "cosine"

    def stored(self, count: int) -> Stored:
        rows = self._store.get(limit=count, include=["documents", "embeddings"])
        return Stored(list(rows["documents"]), list(rows["embeddings"]))

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        found = self._store.similarity_search_by_vector_with_relevance_scores(vector, k=k, filter=filter)
        # Distances, whatever the method is called: squared L2, or one minus cosine or inner product.
        half = 2 if self._space == "l2" else 1
        return [Found(document, 1 - float(distance) / half) for document, distance in found]


class _Qdrant:
    def __init__(self, store: Any) -> None:
        self._store = store
        self._distance = str(getattr(store.distance, "value", store.distance))
        self.needs_unit_norm = self._distance != "Cosine"

    def stored(self, count: int) -> Stored:
        store = self._store
        points, _ = store.client.scroll(store.collection_name, limit=count, with_payload=True, with_vectors=True)
        vectors = [self._dense(point.vector) for point in points]
        return Stored([point.payload.get(store.content_payload_key, "") for point in points], vectors)

    def _dense(self, vector: Any) -> Any:
        found = vector.get(self._store.vector_name) if isinstance(vector, dict) else vector
        if found is None:
            raise InputError(
                f"expected dense vectors in the Qdrant collection {self._store.collection_name!r}, found none"
            )
        return found

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        found = self._store.similarity_search_with_score_by_vector(vector, k=k, filter=filter)
        return [Found(document, self._cosine(float(score))) for document, score in found]

    def _cosine(self, score: float) -> float | None:
        match self._distance:
            case "Cosine" | "Dot":
                return score
            case "Euclid":
                return 1 - score**2 / 2
            case _:
                return None


class _Unknown:
    """Any other store: its embeddings are looked at in place of its vectors, and its scores are not known."""

    needs_unit_norm = False

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def stored(self, count: int) -> Stored:  # noqa: ARG002  # there is no common way to look
        return Stored([], [])

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        given = {} if filter is None else {"filter": filter}
        return [Found(document, None) for document in self._store.similarity_search_by_vector(vector, k=k, **given)]


class _Own:
    needs_unit_norm = False

    def __init__(self, store: Any) -> None:
        self._store = store

    def stored(self, count: int) -> Stored:
        documents = list(islice(self._store.index.documents(), count))
        vectors = self._store.index.get_vectors([document.id for document in documents])
        return Stored([document.content for document in documents], list(vectors))

    def search(self, vector: list[float], k: int, filter: Any) -> list[Found]:  # noqa: A002
        found = self._store.similarity_search_with_score_by_vector(vector, k=k, filter=filter)
        return [Found(document, score) for document, score in found]


_KNOWN: dict[str, Callable[[Any], AskedStore]] = {
    "langchain_core.vectorstores.in_memory.InMemoryVectorStore": _InMemory,
    "langchain_community.vectorstores.faiss.FAISS": _CommunityFaiss,
    "langchain_chroma.vectorstores.Chroma": _Chroma,
    "langchain_qdrant.qdrant.QdrantVectorStore": _Qdrant,
    "langchain_safe_retrieval.vectorstore.SafeRetrievalVectorStore": _Own,
}


def asked_store(store: VectorStore) -> AskedStore:
    """A store as something to be asked by vector."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(store).__mro__)
    return next((_KNOWN[name] for name in names if name in _KNOWN), _Unknown)(store)


def check_vectors_by(encoder: Encoder, store: VectorStore, asked: AskedStore) -> None:
    """Make sure that the vectors in a store are an encoder's, by embedding some of its documents again.

    An empty store, or one that does not show its vectors, is judged by its embeddings.

    Raises:
        EncoderMismatchError: they are another model's; or there is nothing to judge by; or they are not of unit norm,
            where the store would not order them by cosine.
    """
    texts, vectors = asked.stored(SAMPLE)
    kind = type(store).__name__
    if not texts:
        if store.embeddings is None:
            raise EncoderMismatchError(
                f"this {kind} shows neither vectors nor embeddings, so nothing says whether {encoder.name} made what "
                "is in it; give the store its embeddings"
            )
        texts, vectors = list(PROBES), store.embeddings.embed_documents(list(PROBES))
    found = agreement(encoder, texts, vectors)
    if found < AGREEMENT:
        raise EncoderMismatchError(
            f"the vectors of this {kind} have a median cosine of {found:.2f} to those of {encoder.name}, so another "
            "model made them; give embeddings with that model as document_encoder and an adapter trained for it, or "
            f"build the store with {encoder.name}"
        )
    if asked.needs_unit_norm and not all(math.isclose(float(np.linalg.norm(row)), 1, abs_tol=0.01) for row in vectors):
        raise EncoderMismatchError(
            f"the vectors of this {kind} are not of unit norm, and it does not order such by cosine; build it with "
            "normalised embeddings"
        )
