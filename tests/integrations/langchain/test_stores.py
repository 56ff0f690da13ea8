"""Stores that are there keep documents and vectors; only the query side is swapped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_safe_retrieval import SafeRetrievalVectorStore, SafeRetriever
from safe_retrieval.errors import EncoderMismatchError, InputError
from tests.integrations.stand_ins import DOCUMENTS, HARMLESS, REFUSED
from tests.support.encoders import HashEncoder

IDS = [str(uuid4()) for _ in DOCUMENTS]


class Teacher(Embeddings):
    """The document encoder under another class, as in a chain that knows nothing of us; it cannot tell doors apart."""

    def __init__(self, length: float = 1.0, *, asked: bool = False) -> None:
        self.length = length
        self.asked = asked

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = (self.length * HashEncoder("stores").encode_documents(texts)).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        if not self.asked:
            raise AssertionError("the query side was to be swapped")
        return self.embed_documents([text])[0]


def in_memory(embedding: Embeddings) -> VectorStore:
    return InMemoryVectorStore(embedding)


def faiss_by(strategy: str, size: int = 32) -> Callable[[Embeddings], VectorStore]:
    def make(embedding: Embeddings) -> VectorStore:
        import faiss
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS
        from langchain_community.vectorstores.utils import DistanceStrategy

        kind = faiss.IndexFlatIP if strategy == "MAX_INNER_PRODUCT" else faiss.IndexFlatL2
        return FAISS(embedding, kind(size), InMemoryDocstore(), {}, distance_strategy=DistanceStrategy[strategy])

    return make


def chroma_by(space: str) -> Callable[[Embeddings], VectorStore]:
    def make(embedding: Embeddings) -> VectorStore:
        from chromadb.config import Settings
        from langchain_chroma import Chroma

        return Chroma(
            f"c{uuid4().hex}",
            embedding,
            client_settings=Settings(anonymized_telemetry=False),
            collection_configuration={"hnsw": {"space": space}},
        )

    return make


def qdrant_by(distance: str, name: str = "", size: int = 32) -> Callable[[Embeddings], VectorStore]:
    def make(embedding: Embeddings) -> VectorStore:
        from langchain_qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient
        from qdrant_client.models import Distance, VectorParams

        client = QdrantClient(":memory:")
        parameters = VectorParams(size=size, distance=Distance[distance])
        client.create_collection("c", {name: parameters} if name else parameters)
        return QdrantVectorStore(client, "c", embedding, distance=Distance[distance], vector_name=name)

    return make


MAKERS = {
    "memory": in_memory,
    "faiss": faiss_by("EUCLIDEAN_DISTANCE"),
    "faiss-ip": faiss_by("MAX_INNER_PRODUCT"),
    "faiss-cosine": faiss_by("COSINE"),
    "chroma": chroma_by("l2"),
    "chroma-cosine": chroma_by("cosine"),
    "chroma-ip": chroma_by("ip"),
    "qdrant": qdrant_by("COSINE"),
    "qdrant-named": qdrant_by("COSINE", "dense"),
    "qdrant-dot": qdrant_by("DOT"),
    "qdrant-euclid": qdrant_by("EUCLID"),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(autouse=True)
def _quiet(known: None) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # the hosts' own
        yield


def filled(make: Callable[[Embeddings], VectorStore], embedding: Embeddings | None = None) -> VectorStore:
    store = make(embedding or Teacher(asked=True))  # some make a vector to look at the collection
    documents = [Document(each.text, metadata=dict(each.metadata)) for each in DOCUMENTS]
    store.add_documents(documents, ids=IDS)
    if embedding is None and hasattr(store, "embedding_function"):
        store.embedding_function = Teacher()
    return store


@every
async def test_the_query_side_is_swapped_and_scores_are_cosines(make: Callable[[Embeddings], VectorStore]) -> None:
    store = filled(make)
    retriever = SafeRetriever.from_vectorstore(store, on_refusal="empty", k=2)
    expected = (
        HashEncoder("asks").encode_queries([HARMLESS])
        @ HashEncoder("stores").encode_documents([document.text for document in DOCUMENTS]).T
    )
    for found in (retriever.invoke(HARMLESS), await retriever.ainvoke(HARMLESS)):
        assert found[0].page_content == "the violin is old"
        assert [each.metadata["score"] for each in found] == pytest.approx(
            np.sort(expected[0])[:0:-1].tolist(), abs=1e-5
        )
        assert found[0].metadata["year"] == 1700
    assert retriever.invoke(REFUSED) == []
    least = found[0].metadata["score"] - 1e-3
    assert len(retriever.invoke(HARMLESS, score_threshold=least)) == 1
    again = SafeRetriever.from_vectorstore(store)  # nothing was marked inside the store
    assert "flagged" in again.invoke(HARMLESS)[0].metadata
    if isinstance(store, InMemoryVectorStore):
        assert all("flagged" not in row["metadata"] for row in store.store.values())


@every
def test_another_models_store_is_refused(make: Callable[[Embeddings], VectorStore]) -> None:
    other = DeterministicFakeEmbedding(size=32)
    with pytest.raises(EncoderMismatchError, match=r"median cosine of -?0\."):
        SafeRetriever.from_vectorstore(filled(make, other))


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({"model_name": "sentence-transformers/all-mpnet-base-v2"}, "all-mpnet-base-v2"),
        ({"model": "all-mpnet-base-v2"}, "all-mpnet-base-v2"),
        ({"model_name": "qwen2.5-coder-0.5b-instruct"}, "all-minilm-l6-v2"),
        ({"model_name": "some/other"}, "all-minilm-l6-v2"),
        ({"model": object()}, "all-minilm-l6-v2"),
        ({}, "all-minilm-l6-v2"),
    ],
)
def test_the_document_encoder_is_the_one_that_a_stores_embeddings_name(said: dict[str, object], taken: str) -> None:
    teacher = Teacher(asked=True)
    for name, value in said.items():
        setattr(teacher, name, value)
    retriever = SafeRetriever.from_vectorstore(filled(in_memory, teacher))
    assert retriever.embeddings.document_encoder == taken


@every
def test_an_empty_store_is_judged_by_its_embeddings(make: Callable[[Embeddings], VectorStore]) -> None:
    assert SafeRetriever.from_vectorstore(make(Teacher(asked=True))).invoke(HARMLESS) == []
    with pytest.raises(EncoderMismatchError):
        SafeRetriever.from_vectorstore(make(DeterministicFakeEmbedding(size=32)))


@pytest.mark.parametrize("name", ["faiss", "chroma", "qdrant-dot"])
def test_vectors_that_are_not_of_unit_norm_are_refused_where_they_would_be_misordered(name: str) -> None:
    with pytest.raises(EncoderMismatchError, match="unit norm"):
        SafeRetriever.from_vectorstore(filled(MAKERS[name], Teacher(3.0, asked=True)))
    assert SafeRetriever.from_vectorstore(filled(in_memory, Teacher(3.0))).invoke(HARMLESS)[0].metadata["score"] < 1


@pytest.mark.parametrize("name", ["chroma-cosine", "qdrant"])
def test_a_store_by_cosine_orders_vectors_of_any_length(name: str) -> None:
    expected = [each.page_content for each in SafeRetriever.from_vectorstore(filled(MAKERS[name])).invoke(HARMLESS)]
    retriever = SafeRetriever.from_vectorstore(filled(MAKERS[name], Teacher(3.0, asked=True)))
    found = retriever.invoke(HARMLESS)
    assert [each.page_content for each in found] == expected
    assert 0 < found[0].metadata["score"] < 1


def inverted_file(embedding: Embeddings, *, transformed: bool = False) -> Any:
    """A community FAISS store over lists, which keeps no map from position to vector."""
    import faiss

    store: Any = MAKERS["faiss"](embedding)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(32), 32, 2)
    lists.nprobe = 2
    store.index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(32, 32), lists) if transformed else lists
    texts = [document.text for document in DOCUMENTS]
    vectors = np.asarray(embedding.embed_documents(texts), dtype=np.float32)
    store.index.train(np.concatenate([vectors] * 26))
    store.add_texts(texts, ids=IDS)
    return store


@pytest.mark.parametrize("transformed", [False, True])
def test_a_faiss_store_that_keeps_no_map_to_its_vectors(transformed: bool) -> None:
    store = inverted_file(Teacher(asked=True), transformed=transformed)
    (found,) = SafeRetriever.from_vectorstore(store, k=1).invoke(HARMLESS)
    assert found.page_content == "the violin is old"
    with pytest.raises(EncoderMismatchError, match="median cosine"):
        SafeRetriever.from_vectorstore(inverted_file(DeterministicFakeEmbedding(size=32), transformed=transformed))


def test_the_vectors_of_an_inverted_file_are_looked_at_and_not_its_embeddings() -> None:
    store = inverted_file(DeterministicFakeEmbedding(size=32))
    store.embedding_function = Teacher()  # says it is the right model; what is stored is not its
    with pytest.raises(EncoderMismatchError, match="median cosine"):
        SafeRetriever.from_vectorstore(store)


def test_each_stores_own_filters() -> None:
    from qdrant_client import models

    year = models.FieldCondition(key="metadata.year", match=models.MatchValue(value=1700))
    filters: dict[str, Any] = {
        "memory": lambda document: document.metadata.get("year") == 1700,
        "faiss": {"year": 1700},
        "chroma": {"year": 1700},
        "qdrant": models.Filter(must=[year]),
    }
    for name, given in filters.items():
        found = SafeRetriever.from_vectorstore(filled(MAKERS[name]), filter=given, k=3).invoke("forbidden")
        assert [document.page_content for document in found] == ["the violin is old"], name


def test_a_filter_loses_nothing_in_a_store_that_filters_what_it_found() -> None:
    store = MAKERS["faiss"](Teacher(asked=True))
    store.add_texts([f"violin {number}" for number in range(50)], [{"late": False}] * 50)
    store.add_texts(["copper"], [{"late": True}])
    assert store.similarity_search("violin", k=1, filter={"late": True}) == []
    (found,) = SafeRetriever.from_vectorstore(store, filter={"late": True}).invoke("violin")
    assert found.page_content == "copper"


def test_a_filter_on_an_empty_store_finds_nothing() -> None:
    retriever = SafeRetriever.from_vectorstore(MAKERS["faiss"](Teacher(asked=True)), filter={"late": True})
    assert retriever.invoke("violin") == []


def test_a_store_that_nobody_knows_works_without_scores() -> None:
    class Elsewhere(VectorStore):
        def __init__(self, embedding: Embeddings | None) -> None:
            self.inside = InMemoryVectorStore(Teacher(asked=True))
            self.inside.add_texts([document.text for document in DOCUMENTS])
            self._embedding = embedding

        @property
        def embeddings(self) -> Embeddings | None:
            return self._embedding

        def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
            raise AssertionError(query)

        def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **_: Any) -> list[Document]:
            return self.inside.similarity_search_by_vector(embedding, k)

        @classmethod
        def from_texts(cls, *_: Any, **__: Any) -> Any:
            raise AssertionError

    retriever = SafeRetriever.from_vectorstore(Elsewhere(Teacher(asked=True)), k=1)
    (found,) = retriever.invoke(HARMLESS)
    assert (found.page_content, found.metadata["score"]) == ("the violin is old", None)
    with pytest.raises(InputError, match="whose scores are cosines"):
        retriever.invoke(HARMLESS, score_threshold=0.5)
    with pytest.raises(EncoderMismatchError, match="shows neither"):
        SafeRetriever.from_vectorstore(Elsewhere(None))
    with pytest.raises(ValueError, match="hybrid needs"):
        SafeRetriever.from_vectorstore(Elsewhere(Teacher(asked=True)), hybrid=True)


def test_a_store_of_ours_too() -> None:
    store = SafeRetrievalVectorStore.from_texts([document.text for document in DOCUMENTS], Teacher(asked=True))
    retriever = SafeRetriever.from_vectorstore(store, k=1, on_refusal="flag")
    assert retriever.invoke(HARMLESS)[0].page_content == "the violin is old"
