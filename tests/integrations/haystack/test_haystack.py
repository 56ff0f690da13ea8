from __future__ import annotations

import asyncio
import copy
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.telemetry import _telemetry

from haystack_safe_retrieval import SafeDocumentEmbedder, SafeIndexRetriever, SafeTextEmbedder
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.arms import ArmLoader
from safe_retrieval.retrieval.retriever import SafeRetriever
from tests.integrations.stand_ins import DOCUMENTS, HARMLESS, REFUSED, build, install
from tests.support.tiny_pair import TinyPair


def documents() -> list[Document]:
    return [Document(id=each.id, content=each.text, meta=dict(each.metadata)) for each in DOCUMENTS]


def test_these_tests_report_nothing_to_haystack() -> None:
    assert _telemetry.telemetry is None


def test_each_embedder_has_its_own_door(tiny: TinyPair) -> None:
    asks = SafeTextEmbedder(**tiny._asdict(), offline=True)
    asks.warm_up()
    found = asks.run("the violin")
    response = ResponseEncoder.load(tiny.adapter, backbone=tiny.backbone, offline=True)
    vectors, refusal = response.encode(["the violin"])
    assert refusal is not None
    assert type(found["embedding"][0]) is float
    assert np.allclose(found["embedding"], vectors[0], atol=1e-5)
    assert found["meta"]["refusal"] == pytest.approx(float(refusal[0]), abs=1e-5)

    stores = SafeDocumentEmbedder(document_encoder=tiny.document_encoder, offline=True)
    given = documents()
    embedded = stores.run(given)["documents"]
    document = InputEncoder.load(tiny.document_encoder, offline=True)
    expected = document.encode_documents([each.content or "" for each in given])
    assert np.allclose([each.embedding for each in embedded], expected, atol=1e-5)
    assert all(each.embedding is None for each in given)
    assert stores.run([])["documents"] == []


def test_prefixes_and_metadata_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    plain, asked = SafeTextEmbedder(), SafeTextEmbedder(prefix="copper ", suffix=" north")
    assert asked.run("lies")["embedding"] == plain.run("copper lies north")["embedding"]
    embedder = SafeDocumentEmbedder(meta_fields_to_embed=["year", "missing"], embedding_separator=" ", prefix="a ")
    (found,) = embedder.run([Document(content="violin", meta={"year": 1700})])["documents"]
    (expected,) = SafeDocumentEmbedder().run([Document(content="a 1700 violin")])["documents"]
    assert found.embedding == expected.embedding


EVERY: list[tuple[Any, dict[str, Any]]] = [
    (
        SafeTextEmbedder,
        {"arm": "blend", "policy": "concise", "dtype": "int8", "prefix": "a", "suffix": "b", "offline": True},
    ),
    (SafeDocumentEmbedder, {"document_encoder": "x", "batch_size": 2, "meta_fields_to_embed": ["year"]}),
    (SafeIndexRetriever, {"index_path": "somewhere", "arm": "bm25", "gate": "flag", "threshold": 0.5, "top_k": 3}),
]


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_settings_come_back(kind: Any, settings: dict[str, Any]) -> None:
    data = kind(**settings).to_dict()
    assert data["type"].startswith("haystack_safe_retrieval.")
    assert data["init_parameters"].items() >= settings.items()
    assert kind.from_dict(data).to_dict() == data


def query_pipeline(store: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", SafeTextEmbedder(arm="blend"))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> InMemoryDocumentStore:
    install(monkeypatch)
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    pipeline = Pipeline()
    pipeline.add_component("embedder", SafeDocumentEmbedder())
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder.documents", "writer.documents")
    assert pipeline.run({"embedder": {"documents": documents()}})["writer"]["documents_written"] == 3
    return store


def test_a_pipeline_of_indexing_and_a_pipeline_of_queries(store: InMemoryDocumentStore) -> None:
    pipeline = query_pipeline(store)
    found = pipeline.run({"embedder": {"text": HARMLESS}}, include_outputs_from={"embedder"})
    assert [each.id for each in found["retriever"]["documents"]] == ["v"]
    assert found["embedder"]["meta"] == {"model": "asks", "refusal": pytest.approx(0.1)}


async def test_an_asynchronous_pipeline(store: InMemoryDocumentStore) -> None:
    found = await query_pipeline(store).run_async({"embedder": {"text": HARMLESS}})
    assert [each.id for each in found["retriever"]["documents"]] == ["v"]


def test_a_pipeline_through_yaml(store: InMemoryDocumentStore, tmp_path: Path) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", SafeIndexRetriever(str(build(tmp_path / "index")), gate="empty", top_k=1))
    pipeline.add_component("embedder", SafeTextEmbedder(policy="concise"))
    text = pipeline.dumps()
    again = Pipeline.loads(text, allowed_modules=["haystack_safe_retrieval.*"])
    assert again.dumps() == text
    found = again.run({"retriever": {"query": HARMLESS}, "embedder": {"text": HARMLESS}})
    assert [each.id for each in found["retriever"]["documents"]] == ["v"]


def test_the_retriever_and_its_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")), gate="empty")
    found = retriever.run(HARMLESS, top_k=1)
    (document,) = found["documents"]
    assert (document.id, document.content, document.meta) == (
        "v",
        "the violin is old",
        {"title": "Violin", "year": 1700},
    )
    assert document.score is not None
    assert (found["flagged"], found["refusal"]) == (False, pytest.approx(0.1))
    assert retriever.run(REFUSED) == {"documents": [], "refusal": pytest.approx(0.96), "flagged": True}
    assert len(SafeIndexRetriever(str(tmp_path / "index"), gate="flag").run(REFUSED)["documents"]) == 3


YEAR = {"field": "meta.year", "operator": "==", "value": 1700}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (YEAR, ["v"]),
        ({**YEAR, "operator": "!="}, ["c", "f"]),
        ({**YEAR, "operator": ">", "value": 1650}, ["v"]),
        ({**YEAR, "operator": "not in", "value": [1700]}, ["c", "f"]),
        ({"operator": "AND", "conditions": [YEAR, {**YEAR, "operator": "<"}]}, []),
        ({"operator": "OR", "conditions": [YEAR, {**YEAR, "value": None}]}, ["c", "f", "v"]),
        ({"operator": "NOT", "conditions": [YEAR]}, ["c", "f"]),
    ],
)
def test_filters_mean_what_they_mean_to_haystack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filters: dict[str, Any], expected: list[str]
) -> None:
    install(monkeypatch)
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")), filters=filters)
    assert sorted(each.id for each in retriever.run(HARMLESS)["documents"]) == expected
    own = InMemoryDocumentStore()
    own.write_documents(documents())
    assert sorted(each.id for each in own.filter_documents(filters)) == expected
    for nothing in ({}, None):
        assert sorted(each.id for each in retriever.run(HARMLESS, filters=nothing)["documents"]) == expected


def condition(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


DAY = "2024-01-31"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (condition("meta.k.b", "!=", 1), "'k_b'"),
        (condition("k.b", "==", 1), "'k_b'"),
        (condition("meta.when", ">", DAY), "does not compare dates"),
        (condition("meta.when", "<=", "2024-01-31T09:00:00+05:00"), "does not compare dates"),
        (condition("meta.when", ">=", "January"), "does not compare dates"),
        (condition("meta.when", "==", DAY), "does not compare dates"),
        (condition("meta.when", "!=", "2024-01-31 09:00:00Z"), "does not compare dates"),
        (condition("meta.when", "in", ["a", DAY]), "does not compare dates"),
        (condition("meta.when", "<", datetime(2024, 1, 31, tzinfo=UTC)), "does not compare dates"),
        (condition("meta.when", "==", datetime(2024, 1, 31, tzinfo=UTC).date()), "does not compare dates"),
        (condition("meta.tags", "==", ["a", "b"]), "single value, got list"),
        (condition("meta.tags", "not in", [["a"]]), "single value, got list"),
        (condition("meta.k", "!=", {"b": 1}), "single value, got dict"),
        (condition("meta.year", "in", 1700), "list of values"),
    ],
)
def test_what_an_index_folder_would_compare_otherwise_is_refused(filters: dict[str, Any], message: str) -> None:
    for given in (filters, {"operator": "NOT", "conditions": [filters]}):
        with pytest.raises(InputError, match=message):
            SafeIndexRetriever("x", filters=given)


def test_texts_that_are_no_dates_are_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")))
    for value in ("2024", "2024-01", "20240131", "2024-01-31x"):
        assert len(retriever.run(HARMLESS, filters=condition("meta.year", "!=", value))["documents"]) == 3


def test_copies_share_index_and_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")), gate="empty", filters=YEAR)
    retriever.warm_up()
    asks, stores = SafeTextEmbedder(prefix="old "), SafeDocumentEmbedder(meta_fields_to_embed=["year"])
    asks.warm_up()
    stores.warm_up()
    again = copy.deepcopy(retriever)
    assert again.run(HARMLESS) == retriever.run(HARMLESS)
    assert again._retriever is not None
    assert again._retriever.index is retriever._retriever.index  # type: ignore[union-attr]
    again.filters["value"] = 1800  # type: ignore[index]
    assert YEAR["value"] == 1700
    for original, given in ((asks, {"text": "violin"}), (stores, {"documents": documents()})):
        twin: Any = copy.deepcopy(original)
        assert twin._encoder is original._encoder  # type: ignore[attr-defined]
        assert twin.run(**given) == original.run(**given)  # type: ignore[attr-defined]
        assert twin.to_dict() == original.to_dict()  # type: ignore[attr-defined]
        pipeline = Pipeline()
        pipeline.add_component("a", original)
        pipeline.add_component("b", twin)  # a component of its own, which a pipeline can own


async def test_the_retriever_asynchronously(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")))
    assert await retriever.run_async(HARMLESS, top_k=2) == retriever.run(HARMLESS, top_k=2)


async def test_runs_at_once_load_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    loads: list[str] = []

    def slowly(load: Any, name: str) -> Any:
        def loading(*arguments: Any, **settings: Any) -> Any:
            loads.append(name)
            time.sleep(0.05)
            return load(*arguments, **settings)

        return loading

    monkeypatch.setattr(ArmLoader, "paired", slowly(ArmLoader.paired, "pair"))
    monkeypatch.setattr(InputEncoder, "load", slowly(InputEncoder.load, "documents"))
    monkeypatch.setattr(SafeRetriever, "open", slowly(SafeRetriever.open, "index"))
    asks, stores = SafeTextEmbedder(), SafeDocumentEmbedder()
    retriever = SafeIndexRetriever(str(build(tmp_path / "index")), gate="flag")
    await asyncio.gather(*(run for _ in range(3) for run in (asks.run_async("a"), stores.run_async(documents()))))
    assert sorted(loads) == ["documents", "pair"]
    loads.clear()
    await asyncio.gather(*(retriever.run_async(HARMLESS) for _ in range(3)))
    assert loads.count("index") == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SafeTextEmbedder(arm="sideways"), "input, output"),
        (lambda: SafeTextEmbedder(arm="bm25").warm_up(), "arm with vectors"),
        (lambda: SafeTextEmbedder().run(["a"]), "SafeDocumentEmbedder"),
        (lambda: SafeDocumentEmbedder().run("a"), "SafeTextEmbedder"),
        (lambda: SafeDocumentEmbedder().run(["a"]), "SafeTextEmbedder"),
        (lambda: SafeIndexRetriever("x", gate="shut"), "allow, flag, empty"),
        (lambda: SafeIndexRetriever("x", threshold=2), "from 0 to 1"),
        (lambda: SafeIndexRetriever("x", top_k=0), "at least 1"),
        (lambda: SafeIndexRetriever("x", filters={"field": "meta.year"}), "expected an operator"),
        (lambda: SafeIndexRetriever("x", filters={"operator": "XOR", "conditions": []}), "AND, OR or NOT"),
        (
            lambda: SafeIndexRetriever("x", filters={"field": "content", "operator": "==", "value": 1}),
            "field of the metadata",
        ),
        (lambda: SafeIndexRetriever("x").run(["a"]), "one query"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
