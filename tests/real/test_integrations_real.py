"""Every host with MiniLM and the shipped 0.5B adapter: harmless questions find, refused requests are held back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.audit.probes import ProbeKind, ProbeSet, load_probe_set
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.index.builder import build_index
from safe_retrieval.types import Document
from tests.real.test_index_real import FACTS
from tests.support.one_backbone import one_backbone  # noqa: F401  # a fixture that applies by being here

pytestmark = pytest.mark.real

BACKBONE = "qwen2.5-coder-0.5b-instruct"
SETTINGS: dict[str, Any] = {"arm": "blend", "backbone": BACKBONE}
QUESTION, ANSWER = "who wrote the Iliad?", "iliad"
DOCUMENTS = [Document(id_, text, title) for id_, (title, text) in FACTS.items()]


@pytest.fixture(scope="module")
def response() -> ResponseEncoder:
    return ResponseEncoder.load(backbone=BACKBONE)


@pytest.fixture(scope="module")
def refused(response: ResponseEncoder) -> str:
    """The built-in request that the backbone refuses most surely."""
    texts = [probe.text for probe in load_probe_set().of_kind(ProbeKind.HARMFUL)[::12]]
    refusal = response.encode(texts).refusal
    assert refusal is not None
    assert refusal.max() > 0.75
    return texts[int(refusal.argmax())]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "facts"
    build_index(DOCUMENTS, InputEncoder.load(), folder, progress=False)
    return folder


def test_sentence_transformers(response: ResponseEncoder, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from sentence_transformers_safe_retrieval import load_sentence_transformer, safe_sentence_transformer

    model = safe_sentence_transformer(backbone=BACKBONE, device="cpu")
    texts = [QUESTION, "how do tides work?"]
    assert np.abs(model.encode_query(texts) - response.encode_queries(texts)).max() < 1e-5
    stored = model.encode_document([document.content for document in DOCUMENTS])
    assert np.abs(stored - InputEncoder.load().encode_documents([each.content for each in DOCUMENTS])).max() < 1e-5

    model.save_pretrained(str(tmp_path))
    again = load_sentence_transformer(tmp_path, device="cpu")
    assert np.abs(again.encode_query(texts) - model.encode_query(texts)).max() < 1e-5

    blend = safe_sentence_transformer(**SETTINGS, device="cpu")
    corpus = {document.id: document.content for document in DOCUMENTS}
    evaluator = InformationRetrievalEvaluator({"q": QUESTION}, corpus, {"q": {ANSWER}}, name="facts")
    assert evaluator(blend)["facts_cosine_accuracy@1"] == 1.0


def test_two_processes_of_sentence_transformers() -> None:
    from sentence_transformers_safe_retrieval import safe_sentence_transformer

    model = safe_sentence_transformer(arm="input", device="cpu")
    texts = [document.text for document in DOCUMENTS]
    shared = model.encode_document(texts, device=["cpu", "cpu"], chunk_size=3)
    assert np.abs(shared - model.encode_document(texts)).max() < 1e-5


def smaller(probe_set: ProbeSet) -> ProbeSet:
    """Every 22nd probe of each kind, and the passages that answer them."""
    queries = tuple(probe for kind in ProbeKind for probe in probe_set.of_kind(kind)[::22])
    qrels = {probe.id: probe_set.qrels[probe.id] for probe in queries if probe.id in probe_set.qrels}
    judged = {document for grades in qrels.values() for document in grades}
    documents = tuple(document for document in probe_set.documents if document.id in judged)
    return replace(probe_set, documents=documents, queries=queries, qrels=qrels)


def test_mteb(response: ResponseEncoder) -> None:
    import mteb

    from mteb_safe_retrieval import HarmfulRetrieval, safe_retrieval_model

    probe_set = smaller(load_probe_set())

    def scores_of(model: Any) -> dict[str, float]:
        task = HarmfulRetrieval(probe_set)
        (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results
        scores: dict[str, float] = result.scores["test"][0]
        return scores

    teacher = scores_of(safe_retrieval_model("teacher"))
    assert teacher["benign_recall_at_5"] == teacher["harm_at_5"] == 1.0  # the stand-ins repeat their requests' words
    assert teacher["main_score"] == 0.0

    gated = safe_retrieval_model("gated-25", backbone=BACKBONE)
    refusal = response.encode([probe.text for probe in probe_set.of_kind(ProbeKind.HARMFUL)]).refusal
    assert refusal is not None
    # The corpus is smaller than 20, so whoever passes the gate is handed all of it.
    assert scores_of(gated)["any_harm_at_20"] == pytest.approx(float((refusal < 0.25).mean()), abs=1e-4)

    meta = gated.mteb_model_meta
    assert meta.n_parameters > 400_000_000
    assert (meta.license, meta.adapted_from) == ("apache-2.0", None)  # an encoder and a backbone: of neither alone
    assert meta.training_datasets


def test_llama_index(index: Path, refused: str) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from llama_index_safe_retrieval import SafeRetrievalEmbedding, SafeRetrievalRetriever

    nodes = [TextNode(id_=document.id, text=document.text) for document in DOCUMENTS]
    ordinary = VectorStoreIndex(nodes, embed_model=SafeRetrievalEmbedding(arm="input"))
    retriever = ordinary.as_retriever(similarity_top_k=1, embed_model=SafeRetrievalEmbedding(**SETTINGS))
    assert retriever.retrieve(QUESTION)[0].node.node_id == ANSWER

    gated = SafeRetrievalRetriever.open(index, **SETTINGS, gate="empty", similarity_top_k=1)
    assert gated.retrieve(QUESTION)[0].node.node_id == ANSWER
    assert gated.retrieve(refused) == []


def test_haystack(index: Path, refused: str) -> None:
    from haystack import Document as HaystackDocument
    from haystack import Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from haystack_safe_retrieval import SafeDocumentEmbedder, SafeIndexRetriever, SafeTextEmbedder

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    documents = [HaystackDocument(id=document.id, content=document.text) for document in DOCUMENTS]
    store.write_documents(SafeDocumentEmbedder().run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", SafeTextEmbedder(**SETTINGS))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": QUESTION}})
    assert found["retriever"]["documents"][0].id == ANSWER

    gated = SafeIndexRetriever(str(index), **SETTINGS, gate="empty")
    assert gated.run(QUESTION)["documents"][0].id == ANSWER
    assert gated.run(refused)["flagged"]
    assert gated.run(refused)["documents"] == []


def test_datasets(refused: str, tmp_path: Path) -> None:
    from datasets import Dataset

    from datasets_safe_retrieval import add_safe_index

    rows = {"id": [each.id for each in DOCUMENTS], "text": [each.text for each in DOCUMENTS]}
    dataset = add_safe_index(Dataset.from_dict(rows), "text", tmp_path / "index", **SETTINGS, gate="empty")
    assert dataset.get_nearest_examples("text", QUESTION, k=1).examples["id"] == [ANSWER]
    assert dataset.search("text", refused).indices == []
