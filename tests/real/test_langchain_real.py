"""LangChain on real models: MiniLM, the shipped 0.5B adapter, and the 0.5B as the chat model of a whole chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from langchain_safe_retrieval import (
    LocalChatModel,
    RefusalGate,
    SafeRetrievalEmbeddings,
    SafeRetrievalVectorStore,
    SafeRetriever,
)
from safe_retrieval.audit.probes import ProbeKind, load_probe_set
from safe_retrieval.errors import EncoderMismatchError
from safe_retrieval.models.fetch import resolve
from tests.integrations.langchain.test_stores import chroma_by, faiss_by, qdrant_by
from tests.real.test_index_real import FACTS
from tests.support.one_backbone import one_backbone  # noqa: F401  # a fixture that applies by being here

pytestmark = pytest.mark.real

SETTINGS: dict[str, Any] = {"arm": "blend", "backbone": "qwen2.5-coder-0.5b-instruct"}
QUESTION = "who wrote the Iliad?"


class Ordinary(Embeddings):
    """sentence-transformers as LangChain's own class uses it, which knows nothing of us."""

    def __init__(self, model_name: str = "all-minilm-l6-v2") -> None:
        from sentence_transformers import SentenceTransformer

        self.model_name = model_name
        self.model: Any = SentenceTransformer(str(resolve(model_name).path), device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self.model.encode([text.replace("\n", " ") for text in texts]).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture(scope="module")
def embeddings() -> SafeRetrievalEmbeddings:
    return SafeRetrievalEmbeddings(**SETTINGS)


@pytest.fixture(scope="module")
def input_embeddings() -> SafeRetrievalEmbeddings:
    return SafeRetrievalEmbeddings(arm="input")


@pytest.fixture(scope="module")
def ordinary() -> Ordinary:
    return Ordinary()


@pytest.fixture(scope="module")
def refused(embeddings: SafeRetrievalEmbeddings) -> str:
    """The built-in request that the backbone refuses most surely."""
    requests = [probe.text for probe in load_probe_set().of_kind(ProbeKind.HARMFUL)[::12]]
    surest = max(RefusalGate(embeddings=embeddings).batch(requests), key=lambda verdict: verdict["refusal"])
    assert surest["flagged"]
    return surest["query"]


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return SafeRetrievalEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return SETTINGS


class TestVectorStore(VectorStoreIntegrationTests):
    """By the document encoder on both sides: the suite expects a text to be nearest to itself."""

    @pytest.fixture
    def vectorstore(self, input_embeddings: SafeRetrievalEmbeddings) -> VectorStore:
        return SafeRetrievalVectorStore.from_texts([], input_embeddings)


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _index(self, embeddings: SafeRetrievalEmbeddings, tmp_path: Path) -> None:
        texts = [text for _, text in FACTS.values()]
        SafeRetrievalVectorStore.from_texts(texts, embeddings, path=tmp_path / "facts")
        self.params = {"index_path": str(tmp_path / "facts"), "embeddings": embeddings, "hybrid": True}

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return SafeRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.params

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


def in_memory(embedding: Embeddings) -> VectorStore:
    return InMemoryVectorStore(embedding)


STORES = {
    "memory": in_memory,
    "faiss": faiss_by("EUCLIDEAN_DISTANCE", 384),
    "chroma": chroma_by("l2"),
    "qdrant": qdrant_by("COSINE", size=384),
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_store_that_is_there_changes_its_query_side_alone(
    make: Callable[[Embeddings], VectorStore],
    ordinary: Ordinary,
    embeddings: SafeRetrievalEmbeddings,
    refused: str,
) -> None:
    store = make(ordinary)
    store.add_texts([f"{title} {text}" for title, text in FACTS.values()])
    assert store.as_retriever(search_kwargs={"k": 1}).invoke(refused)
    retriever = SafeRetriever.from_vectorstore(store, embeddings=embeddings, on_refusal="empty", k=1)
    (found,) = await retriever.ainvoke(QUESTION)
    assert "Homer" in found.page_content
    assert 0.2 < found.metadata["score"] <= 1
    assert retriever.invoke(refused) == []

    other = make(DeterministicFakeEmbedding(size=384))
    other.add_texts(["one", "two"])
    with pytest.raises(EncoderMismatchError, match="another model made them"):
        SafeRetriever.from_vectorstore(other, embeddings=embeddings)


def test_a_store_of_another_model_is_asked_through_that_models_adapter_in_one_line(refused: str) -> None:
    store = InMemoryVectorStore(Ordinary("all-mpnet-base-v2"))
    store.add_texts([f"{title} {text}" for title, text in FACTS.values()])
    retriever = SafeRetriever.from_vectorstore(store, on_refusal="empty", k=1)
    (found,) = retriever.invoke(QUESTION)
    assert "Homer" in found.page_content
    assert 0.2 < found.metadata["score"] <= 1
    assert retriever.invoke(refused) == []


class Handed(BaseCallbackHandler):
    """What a chat model is given to read."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: list[list[BaseMessage]], **_: Any) -> None:
        self.prompts += [str(message.content) for batch in messages for message in batch]


def joined(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents) or "(no passage)"


def chain(retriever: Runnable[str, list[Document]], chat: LocalChatModel) -> Runnable[str, str]:
    prompt = ChatPromptTemplate.from_template("Answer from these passages:\n{passages}\n\nQuestion: {question}")
    return {"passages": retriever | joined, "question": RunnablePassthrough()} | prompt | chat | StrOutputParser()


def test_a_whole_chain_by_both_retrievers(
    ordinary: Ordinary, embeddings: SafeRetrievalEmbeddings, refused: str
) -> None:
    probes = load_probe_set()
    (asked,) = [probe for probe in probes.of_kind(ProbeKind.HARMFUL) if probe.text == refused]
    store = InMemoryVectorStore(ordinary)
    store.add_texts([f"{title} {text}" for title, text in FACTS.values()])
    stand_ins = [document.content for document in probes.documents if document.id in probes.qrels[asked.id]]
    store.add_texts(stand_ins)
    safe = SafeRetriever.from_vectorstore(store, embeddings=embeddings, on_refusal="empty", k=1)
    chat = LocalChatModel.sharing(embeddings, max_new_tokens=16)

    handed: dict[str, list[str]] = {}
    for name, retriever in {"ordinary": store.as_retriever(search_kwargs={"k": 1}), "safe": safe}.items():
        heard = Handed()
        answers = chain(retriever, chat).batch([QUESTION, refused], {"callbacks": [heard], "max_concurrency": 1})
        assert "Homer" in answers[0]
        handed[name] = heard.prompts
    assert all("Homer" in prompts[0] for prompts in handed.values())
    assert any(passage in handed["ordinary"][1] for passage in stand_ins)
    assert not any(passage in handed["safe"][1] for passage in stand_ins)
    assert "(no passage)" in handed["safe"][1]
