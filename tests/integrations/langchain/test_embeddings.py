from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from langchain_core.load import dumps, loads

from langchain_safe_retrieval import RefusalGate, SafeRetrievalEmbeddings
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import EncoderMismatchError, InputError
from tests.integrations.stand_ins import HARMLESS, REFUSED
from tests.support.encoders import HashEncoder
from tests.support.tiny_pair import TinyPair


def test_queries_and_documents_go_through_their_own_doors(tiny: TinyPair) -> None:
    embeddings = SafeRetrievalEmbeddings(**tiny._asdict(), offline=True)
    response = ResponseEncoder.load(tiny.adapter, backbone=tiny.backbone, offline=True)
    document = InputEncoder.load(tiny.document_encoder, offline=True)
    asked = embeddings.embed_query("the violin")
    assert type(asked[0]) is float
    assert np.allclose(asked, response.encode_queries(["the violin"])[0], atol=1e-5)
    stored = embeddings.embed_documents(["the violin", "copper", ""])
    assert np.allclose(stored, document.encode_documents(["the violin", "copper", ""]), atol=1e-5)
    assert embeddings.embed_documents([]) == []
    vector, refusal, read = embeddings.encode_query("the violin")
    assert read == "the violin"
    assert np.allclose(vector, asked)
    assert refusal is not None
    assert 0 <= refusal <= 1


def test_an_adapter_of_another_teacher_is_refused(tiny: TinyPair) -> None:
    embeddings = SafeRetrievalEmbeddings(backbone=tiny.backbone, adapter=tiny.adapter, document_encoder=tiny.backbone)
    with pytest.raises(EncoderMismatchError, match="one vector space"):
        embeddings.embed_query("the violin")


async def test_queries_that_wait_share_a_pass(monkeypatch: pytest.MonkeyPatch, known: None) -> None:
    sizes: list[int] = []
    encode = HashEncoder.encode

    def counted(self: HashEncoder, texts: list[str], **settings: Any) -> Any:
        sizes.append(len(texts))
        return encode(self, texts, **settings)

    monkeypatch.setattr(HashEncoder, "encode", counted)
    embeddings = SafeRetrievalEmbeddings()
    queries = [f"query {number}" for number in range(50)]
    found = await asyncio.gather(*map(embeddings.aembed_query, queries))
    assert sum(sizes) == 50
    assert len(sizes) < 25
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(embeddings.embed_query, queries)) == found
    assert await embeddings.aembed_documents(["copper"]) == embeddings.embed_documents(["copper"])


async def test_a_fault_reaches_everyone_who_waits_and_nobody_after(
    monkeypatch: pytest.MonkeyPatch, known: None
) -> None:
    embeddings = SafeRetrievalEmbeddings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashEncoder, "encode", lambda *_, **__: (_ for _ in ()).throw(OSError("no memory")))
        found = await asyncio.gather(*(embeddings.aembed_query("a") for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no memory"] * 3
    assert len(embeddings.embed_query("a")) == 32
    with pytest.raises(InputError, match="expected str"):
        embeddings.embed_query(3)  # type: ignore[arg-type]
    task = asyncio.ensure_future(embeddings.aembed_query("b"))
    task.cancel()
    assert len(await embeddings.aembed_query("c")) == 32


async def test_one_callers_bad_query_is_not_its_neighbours_fault(monkeypatch: pytest.MonkeyPatch, known: None) -> None:
    embeddings = SafeRetrievalEmbeddings()
    whole = HashEncoder.encode

    def picky(encoder: HashEncoder, texts: list[str], **options: Any) -> Any:
        if "bad" in texts:
            raise InputError("no direction for text 0")
        return whole(encoder, texts, **options)

    monkeypatch.setattr(HashEncoder, "encode", picky)
    asked = ["a", "bad", "b"]
    found = await asyncio.gather(*(embeddings.aembed_query(text) for text in asked), return_exceptions=True)
    assert [isinstance(each, InputError) for each in found] == [False, True, False]


def test_settings_come_back_and_the_models_do_not_travel(known: None) -> None:
    embeddings = SafeRetrievalEmbeddings(arm="blend", policy="concise", batch_size=4)
    embeddings.embed_query(HARMLESS)
    text = dumps(embeddings)
    assert "encoder" not in text.replace("document_encoder", "")
    allowed: list[Any] = [SafeRetrievalEmbeddings]
    again = loads(text, allowed_objects=allowed, valid_namespaces=["langchain_safe_retrieval"])
    unpickled = pickle.loads(pickle.dumps(embeddings))  # noqa: S301  # for hosts that send objects to their workers
    for other in (again, unpickled, copy.deepcopy(embeddings)):
        assert other == embeddings
        assert other.embed_query(HARMLESS) == embeddings.embed_query(HARMLESS)
    with pytest.raises(ValueError, match="not allowed"):
        loads(text)


def test_what_would_go_wrong_silently_is_refused() -> None:
    for settings, message in [
        ({"arm": "bm25"}, "arm with vectors"),
        ({"arm": "sideways"}, "'output'"),
        ({"policy": "harsh"}, "policy name"),
        ({"batch_size": 0}, "greater than or equal"),
        ({"modle": "x"}, "not permitted"),
    ]:
        with pytest.raises(ValueError, match=message):
            SafeRetrievalEmbeddings(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        SafeRetrievalEmbeddings().arm = "input"  # type: ignore[misc, assignment]


async def test_the_gate_alone(known: None) -> None:
    gate = RefusalGate()
    assert gate.invoke(HARMLESS) == {"query": HARMLESS, "refusal": pytest.approx(0.1), "flagged": False}
    assert (await gate.ainvoke(REFUSED))["flagged"]
    assert [verdict["flagged"] for verdict in gate.batch([HARMLESS, REFUSED])] == [False, True]
    assert not RefusalGate(threshold=0.97).invoke(REFUSED)["flagged"]
    with pytest.raises(ValueError, match="less than or equal"):
        RefusalGate(threshold=2)


def test_the_gate_asks_a_response_encoder_where_the_arm_has_no_verdict(known: None) -> None:
    gate = RefusalGate(embeddings=SafeRetrievalEmbeddings(arm="input"))
    assert gate.invoke(REFUSED)["flagged"]
