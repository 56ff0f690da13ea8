from __future__ import annotations

import copy
import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_safe_retrieval import SafeRetrievalEmbedding, SafeRetrievalRetriever
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.types import Document
from tests.integrations.stand_ins import DOCUMENTS, HARMLESS, REFUSED, build, install
from tests.support.encoders import HashEncoder
from tests.support.tiny_pair import TinyPair

NODES = [TextNode(id_=document.id, text=document.text) for document in DOCUMENTS]


def test_queries_and_texts_go_through_their_own_doors(tiny: TinyPair) -> None:
    embedding = SafeRetrievalEmbedding(**tiny._asdict(), offline=True)
    response = ResponseEncoder.load(tiny.adapter, backbone=tiny.backbone, offline=True)
    document = InputEncoder.load(tiny.document_encoder, offline=True)
    asked = embedding.get_query_embedding("the violin")
    assert type(asked[0]) is float
    assert np.allclose(asked, response.encode_queries(["the violin"])[0], atol=1e-5)
    stored = embedding.get_text_embedding_batch(["the violin", "copper", ""])
    assert np.allclose(stored, document.encode_documents(["the violin", "copper", ""]), atol=1e-5)
    assert np.allclose(embedding.get_text_embedding("copper"), stored[1], atol=1e-5)


async def test_the_asynchronous_methods_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    embedding = SafeRetrievalEmbedding()
    assert await embedding.aget_query_embedding(HARMLESS) == embedding.get_query_embedding(HARMLESS)
    assert await embedding.aget_text_embedding("copper") == embedding.get_text_embedding("copper")
    texts = [document.text for document in DOCUMENTS]
    assert await embedding.aget_text_embedding_batch(texts) == embedding.get_text_embedding_batch(texts)


async def test_batches_at_once_load_the_models_once(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    load, loads = ArmLoader.paired, []

    def slowly(loader: ArmLoader, arm: Arm) -> PairedEncoder:
        loads.append(arm)
        time.sleep(0.05)
        return load(loader, arm)

    monkeypatch.setattr(ArmLoader, "paired", slowly)
    embedding = SafeRetrievalEmbedding(embed_batch_size=1)
    assert len(await embedding.aget_text_embedding_batch(["a", "b", "c"])) == 3
    assert len(loads) == 1


def test_everything_that_the_base_class_leaves_open_is_there() -> None:
    assert issubclass(SafeRetrievalEmbedding, BaseEmbedding)
    assert not inspect.isabstract(SafeRetrievalEmbedding)
    assert SafeRetrievalEmbedding.class_name() == "SafeRetrievalEmbedding"


def test_settings_come_back_and_the_models_do_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    embedding = SafeRetrievalEmbedding(arm="blend", policy="concise", embed_batch_size=4)
    embedding.get_query_embedding(HARMLESS)
    again = SafeRetrievalEmbedding.from_dict(embedding.to_dict())
    assert again.model_dump() == embedding.model_dump()
    assert "pair" not in embedding.to_dict()
    assert SafeRetrievalEmbedding.from_json(embedding.to_json()).arm == "blend"


def test_what_would_go_wrong_silently_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors by their text alone"):
        SafeRetrievalEmbedding(embeddings_cache=SimpleKVStore())
    with pytest.raises(ValueError, match="arm with vectors"):
        SafeRetrievalEmbedding(arm="bm25")
    with pytest.raises(ValueError, match="'output'"):
        SafeRetrievalEmbedding(arm="sideways")


def test_an_index_of_llama_indexs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    index = VectorStoreIndex(NODES, embed_model=SafeRetrievalEmbedding())
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(HARMLESS)
    assert found.node.node_id == "v"


def test_a_store_keeps_its_vectors_when_the_query_side_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    index = VectorStoreIndex(NODES, embed_model=SafeRetrievalEmbedding(arm="input"))
    kept = index.vector_store.to_dict()
    retriever = index.as_retriever(similarity_top_k=1, embed_model=SafeRetrievalEmbedding())
    (found,) = retriever.retrieve(HARMLESS)
    assert found.node.node_id == "v"
    assert index.vector_store.to_dict() == kept


def test_a_step_of_an_ingestion_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    nodes = IngestionPipeline(transformations=[SafeRetrievalEmbedding()]).run(nodes=NODES)
    assert [node.embedding for node in nodes] == HashEncoder("stores").encode_documents(
        [node.get_content(MetadataMode.EMBED) for node in NODES]
    ).tolist()


def test_nodes_with_scores_and_the_gates_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeRetrievalRetriever.open(build(tmp_path / "index"), gate="empty", similarity_top_k=2)
    found = retriever.retrieve(HARMLESS)
    assert (len(found), found[0].node.node_id) == (2, "v")
    node = found[0].node
    assert node.metadata == {"title": "Violin", "year": 1700, "refusal": pytest.approx(0.1), "flagged": False}
    assert "refusal" not in node.get_content(MetadataMode.LLM)
    assert "title: Violin" in node.get_content(MetadataMode.LLM)
    assert found[0].score is not None
    assert found[0].score >= (found[1].score or 0)
    assert retriever.retrieve(REFUSED) == []


async def test_the_retriever_asynchronously_and_flagging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeRetrievalRetriever.open(build(tmp_path / "index"), gate="flag", similarity_top_k=1)
    (found,) = await retriever.aretrieve(QueryBundle(REFUSED, embedding=[0.0] * 32))
    assert (found.node.node_id, found.node.metadata["flagged"]) == ("f", True)


def year(value: int | list[int] | None, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key="year", value=value, operator=FilterOperator(operator))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (MetadataFilters(filters=[year(1700)]), ["v"]),
        (MetadataFilters(filters=[year(1700, "!=")]), ["c", "f"]),
        (MetadataFilters(filters=[year(1650, ">"), year(1650, "<")]), []),
        (MetadataFilters(filters=[year(1650, ">"), year(None, "is_empty")], condition="or"), ["c", "f", "v"]),
        (MetadataFilters(filters=[MetadataFilters(filters=[year([1700], "in")])], condition="not"), ["c", "f"]),
        (MetadataFilters(filters=[]), ["c", "f", "v"]),
    ],
)
def test_filters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filters: MetadataFilters, expected: list[str]
) -> None:
    install(monkeypatch)
    retriever = SafeRetrievalRetriever.open(build(tmp_path / "index"), filters=filters)
    assert sorted(found.node.node_id for found in retriever.retrieve(HARMLESS)) == expected


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("is_empty", None, [0, 1, 2]),
        ("contains", "a", [3, 4]),
        ("any", ["b", "c"], [4]),
        ("all", ["a", "b"], [4]),
        ("all", ["a", "c"], []),
    ],
)
def test_filters_that_look_into_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operator: str, value: Any, expected: list[int]
) -> None:
    install(monkeypatch)
    values: list[Any] = [[], None, "", ["a"], ["b", "a"], {"b": 1}, 0, False, "a", -1.5]
    stored = [Document(f"d{n}", f"violin {n}", metadata={"tags": value}) for n, value in enumerate(values)]
    build_index(stored, HashEncoder("stores"), tmp_path / "index", progress=False)
    asked = MetadataFilter(key="tags", value=value, operator=FilterOperator(operator))
    retriever = SafeRetrievalRetriever.open(tmp_path / "index", filters=MetadataFilters(filters=[asked]))
    found = retriever.retrieve(HARMLESS)
    assert sorted(each.node.node_id for each in found) == [f"d{number}" for number in expected]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("==", 1, [0, 2]),
        ("!=", 1, [1, 3, 4, 5]),
        ("==", 0, [1, 3]),
        ("in", [1, 7], [0, 2, 4]),
        ("nin", [0, 7], [0, 2, 5]),
        ("==", 1.0, [0, 2]),
        ("==", 7, [4]),
        (">=", 1, [2, 4]),
    ],
)
def test_1_and_0_stand_for_booleans_which_its_filters_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operator: str, value: Any, expected: list[int]
) -> None:
    install(monkeypatch)
    values: list[Any] = [True, False, 1, 0, 7, "1"]
    stored = [Document(f"d{n}", f"violin {n}", metadata={"draft": each}) for n, each in enumerate(values)]
    build_index(stored, HashEncoder("stores"), tmp_path / "index", progress=False)
    asked = MetadataFilter(key="draft", value=value, operator=FilterOperator(operator))
    retriever = SafeRetrievalRetriever.open(tmp_path / "index", filters=MetadataFilters(filters=[asked]))
    assert sorted(each.node.node_id for each in retriever.retrieve(HARMLESS)) == [f"d{number}" for number in expected]


def test_nothing_equals_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    with pytest.raises(InputError, match="is_empty finds documents without it"):
        SafeRetrievalRetriever.open(build(tmp_path / "index"), filters=MetadataFilters(filters=[year(None)]))


def test_copies_share_index_and_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    retriever = SafeRetrievalRetriever.open(build(tmp_path / "index"), gate="empty", similarity_top_k=1)
    copied = copy.deepcopy(retriever)
    assert [each.node.node_id for each in copied.retrieve(HARMLESS)] == ["v"]
    assert copied.retrieve(REFUSED) == []
    assert copied._retriever.index is retriever._retriever.index
    embedding = SafeRetrievalEmbedding()
    embedding.get_query_embedding(HARMLESS)
    for twin in (copy.deepcopy(embedding), embedding.model_copy(deep=True)):
        assert twin.pair is embedding.pair


def test_a_filter_that_looks_into_texts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    filters = MetadataFilters(filters=[MetadataFilter(key="title", value="v", operator=FilterOperator.TEXT_MATCH)])
    with pytest.raises(InputError, match="text_match"):
        SafeRetrievalRetriever.open(build(tmp_path / "index"), filters=filters)


def test_callbacks_see_the_retrieval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    handler = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([handler])
    SafeRetrievalRetriever.open(build(tmp_path / "index"), callback_manager=manager).retrieve(HARMLESS)
    assert len(handler.get_event_pairs(CBEventType.RETRIEVE)) == 1


def test_a_query_engine_hands_the_model_what_passed_the_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    engine = RetrieverQueryEngine(
        SafeRetrievalRetriever.open(build(tmp_path / "index"), gate="empty", similarity_top_k=1),
        get_response_synthesizer(llm=MockLLM(), response_mode=ResponseMode.COMPACT),
    )
    assert "the violin is old" in str(engine.query(HARMLESS))
    assert str(engine.query(REFUSED)) == "Empty Response"


def test_a_retriever_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    with pytest.raises(InputError, match="at least 1"):
        SafeRetrievalRetriever.open(build(tmp_path / "index"), similarity_top_k=0)
