from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import Document, GateAction
from tests.server.conftest import Client
from tests.server.support import BROKEN, BUG, NAME, QueryEncoder, code_of, served_by
from tests.support.encoders import HashEncoder

TEXTS = ["the violin", "the harbour lies there"]


def embed(client: Any, **changes: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": NAME, "input": TEXTS, **changes})


def test_embeddings_are_openais_shape(client: Client) -> None:
    response = embed(client())
    assert response.status_code == 200
    body = response.json()
    assert (body["object"], body["model"]) == ("list", NAME)
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", 0), ("embedding", 1)]
    found = np.array([row["embedding"] for row in body["data"]], dtype=np.float32)
    assert np.array_equal(found, HashEncoder().encode_queries(TEXTS))


def test_base64_is_the_same_vector(client: Client) -> None:
    opened = client()
    floats = [row["embedding"] for row in embed(opened).json()["data"]]
    packed = [row["embedding"] for row in embed(opened, encoding_format="base64").json()["data"]]
    assert [np.frombuffer(base64.b64decode(row), "<f4").tolist() for row in packed] == floats


def test_one_text_is_a_list_of_one(client: Client) -> None:
    body = embed(client(), input="the violin", user="somebody").json()
    assert [row["index"] for row in body["data"]] == [0]


@pytest.mark.parametrize(
    ("changes", "documents"),
    [
        ({}, 0),
        ({"input_type": "query"}, 0),
        ({"input_type": "document"}, 2),
        ({"model": f"{NAME}-document"}, 2),
        ({"model": f"{NAME}-document", "input_type": "query"}, 0),
    ],
)
def test_each_side_has_its_encoder(client: Client, changes: dict[str, str], documents: int) -> None:
    served = served_by()
    opened = client(served)
    served.encoder.document.document_calls.clear()  # type: ignore[attr-defined]
    assert embed(opened, **changes).status_code == 200
    assert sum(map(len, served.encoder.document.document_calls)) == documents  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "status", "code", "message"),
    [
        ({"input": [[1, 2], [3]]}, 400, "invalid_value", "check_embedding_ctx_length=False"),
        ({"input": [1, 2]}, 400, "invalid_value", "got token ids"),
        ({"input": []}, 400, "invalid_value", "1 to 2048 texts, got 0"),
        ({"input": ["a"] * 2049}, 400, "invalid_value", "got 2049"),
        ({"input": ["a", None]}, 400, "invalid_value", "item 1"),
        ({"input": {"a": 1}}, 400, "invalid_value", "a text or a list of texts"),
        ({"dimensions": 16}, 400, "dimensions_not_supported", "have 32 numbers"),
        ({"dimensions": True}, 400, "dimensions_not_supported", "have 32 numbers"),
        ({"model": "gpt-4"}, 404, "model_not_found", NAME),
        ({"encoding_format": "int8"}, 400, "invalid_value", "'float' or 'base64'"),
        ({"input_type": "passage"}, 400, "invalid_value", "'query' or 'document'"),
        ({"surprise": 1}, 400, "invalid_value", "surprise"),
        ({"input": ["fine", BROKEN]}, 400, "invalid_value", "no direction"),
        ({"input": BUG}, 500, "server_failed", "its log"),
    ],
)
def test_what_is_refused_says_why(
    client: Client, changes: dict[str, Any], status: int, code: str, message: str
) -> None:
    response = embed(client(), **changes)
    assert response.status_code == status
    assert code_of(response) == code
    assert message in response.json()["error"]["message"]
    assert response.headers["x-request-id"]


def test_its_own_dimensions_may_be_named(client: Client) -> None:
    assert embed(client(), dimensions=32).status_code == 200


def test_what_cannot_be_written_as_utf8_is_replaced(client: Client) -> None:
    opened = client()
    broken = opened.post(
        "/v1/embeddings",
        content=b'{"model": "%s", "input": "a \\ud83d \\u0000"}' % NAME.encode(),
        headers={"content-type": "application/json"},
    )
    assert broken.json()["data"] == embed(opened, input="a \ufffd \ufffd").json()["data"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"a":' * 50_000, b"\xff\xfe", b"9" * 5000])
def test_a_body_that_is_no_object_is_the_callers_fault(client: Client, body: bytes) -> None:
    response = client().post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert code_of(response) in {"invalid_json", "invalid_value"}


def test_models_are_the_two_sides(client: Client) -> None:
    opened = client()
    query, document = opened.get("/v1/models").json()["data"]
    assert (query["id"], query["input_type"]) == (NAME, "query")
    assert (document["id"], document["input_type"]) == (f"{NAME}-document", "document")
    assert (query["object"], query["dimensions"], query["space"]) == ("model", 32, "hash:32")
    assert opened.get(f"/v1/models/{NAME}").json() == query
    missing = opened.get("/v1/models/gpt-4")
    assert (missing.status_code, code_of(missing)) == (404, "model_not_found")


def test_a_model_named_like_one_of_the_hub_is_found_by_its_name(client: Client) -> None:
    opened = client(replace(served_by(), name="our/model"))
    for path in ("/v1/models/our/model", "/v1/models/our%2Fmodel"):  # curl, and the openai client
        assert opened.get(path).json()["id"] == "our/model"


def search(client: Any, **changes: Any) -> Any:
    return client.post("/v1/search", json={"query": ["violin 6", "forbidden violin 6"], "k": 3, **changes})


def test_search_finds_what_the_index_has(client: Client, index: SearchableIndex) -> None:
    body = search(client(served_by(index=index))).json()
    wanted = index.search(HashEncoder().encode_queries(["violin 6"]), 3)[0]
    first, second = body["data"]
    assert [(hit["id"], hit["score"]) for hit in first["hits"]] == [tuple(hit) for hit in wanted]
    assert [hit["rank"] for hit in first["hits"]] == [1, 2, 3]
    (document,) = index.get_documents([wanted[0].id])
    assert first["hits"][0]["document"]["text"] == document.text
    assert [round(row["refusal_score"], 3) for row in (first, second)] == [0.1, 0.96]
    assert (body["gate"], body["usage"]["prompt_tokens"]) == ("allow", 5)


@pytest.mark.parametrize(("gate", "flagged", "hits"), [("allow", False, 3), ("flag", True, 3), ("empty", True, 0)])
def test_the_gate_does_what_the_request_asks_for(
    client: Client, index: SearchableIndex, gate: str, flagged: bool, hits: int
) -> None:
    first, second = search(client(served_by(index=index)), gate=gate, return_documents=False).json()["data"]
    assert (first["flagged"], len(first["hits"])) == (False, 3)
    assert (second["flagged"], len(second["hits"])) == (flagged, hits)
    assert first["hits"][0]["document"] is None


def test_a_search_among_documents_that_fulfil_a_condition(client: Client, index: SearchableIndex) -> None:
    where = {"number": {"$lt": 7}, "$words": "violin"}
    wanted = index.search(HashEncoder().encode_queries(["violin 6"]), 3, where=where)[0]
    first, second = search(client(served_by(index=index)), where=where).json()["data"]
    assert [hit["id"] for hit in first["hits"]] == [hit.id for hit in wanted] != []
    assert all(hit["document"]["metadata"]["number"] < 7 for row in (first, second) for hit in row["hits"])


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "where", [{"$words": "forbidden"}, {"$not": {"$or": [{"$phrase": "a forbidden thing"}, {"number": 1}]}}]
)
def test_a_gate_judges_the_words_of_a_condition_too(
    client: Client, index: SearchableIndex, where: dict[str, Any], beside: bool
) -> None:
    judge = HashEncoder(refused=["forbidden"]) if beside else None
    served = served_by(QueryEncoder(verdict=not beside), index=index, gate=RefusalGate(GateAction.EMPTY), judge=judge)
    opened = client(served)
    for row in search(opened, where=where).json()["data"]:
        assert (row["flagged"], row["hits"]) == (True, [])
    assert [row["flagged"] for row in search(opened, where={"$words": "violin"}).json()["data"]] == [False, True]


class ShortSighted(QueryEncoder):
    """Reads the first five words."""

    def as_read(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[:5]) for text in texts]

    def _refusal(self, texts: Sequence[str]) -> Any:
        return super()._refusal(self.as_read(texts))


@pytest.mark.parametrize("split", ["in the filter", "between query and filter"])
def test_words_that_are_harmful_together_are_judged_together(
    client: Client, index: SearchableIndex, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    query = QueryEncoder()
    monkeypatch.setattr(query, "_refused", ["forbidden violin"])
    opened = client(served_by(query, index=index, gate=RefusalGate(GateAction.EMPTY)))
    asked: dict[str, Any] = {"query": "harp", "where": {"$and": [{"$words": "forbidden"}, {"$words": "violin"}]}}
    if split == "between query and filter":
        asked = {"query": "a forbidden", "where": {"$words": "violin"}}
    (row,) = opened.post("/v1/search", json=asked).json()["data"]
    assert (row["flagged"], row["hits"]) == (True, [])


def test_words_of_a_condition_that_no_judge_reads_are_refused(client: Client, index: SearchableIndex) -> None:
    opened = client(served_by(ShortSighted(), index=index, gate=RefusalGate(GateAction.EMPTY)))
    for where in ({"$words": "the " * 5 + "forbidden"}, {"$or": [{"$words": f"the{n}"} for n in range(6)]}):
        response = search(opened, where=where)
        assert response.status_code == 400
        assert "more than the gate reads" in response.json()["error"]["message"]


def test_metadata_that_utf_8_cannot_carry_is_sent_all_the_same(client: Client, tmp_path: Path) -> None:
    cut = Document("a", "violin", metadata={"teaser\ud83d": ["cut \ud83d", {"n": 1}]})
    build_index([cut], HashEncoder(), tmp_path / "cut")
    with load_index(tmp_path / "cut") as index:
        response = search(client(served_by(index=index)))
    assert response.status_code == 200
    assert response.json()["data"][0]["hits"][0]["document"]["metadata"] == {"teaser\ufffd": ["cut \ufffd", {"n": 1}]}


def test_a_request_cannot_open_the_servers_gate(client: Client, index: SearchableIndex) -> None:
    opened = client(served_by(index=index, gate=RefusalGate(GateAction.FLAG, 0.5)))
    assert [row["flagged"] for row in search(opened).json()["data"]] == [False, True]
    assert search(opened, gate="empty", threshold=0.05).json()["data"][0]["hits"] == []
    for looser in ({"gate": "allow"}, {"threshold": 0.97}):
        response = search(opened, **looser)
        assert response.status_code == 400
        assert "a stricter one only" in response.json()["error"]["message"]


def test_a_judge_gives_the_verdict_where_the_queries_have_none(client: Client, index: SearchableIndex) -> None:
    plain = QueryEncoder(verdict=False)
    judged = client(served_by(plain, index=index, judge=HashEncoder(refused=["forbidden"])))
    assert [row["flagged"] for row in search(judged, gate="flag").json()["data"]] == [False, True]
    assert search(judged).json()["data"][0]["refusal_score"] is None  # nobody asked, so no pass was spent on it
    alone = client(served_by(plain, index=index))
    assert search(alone).status_code == 200
    for response in (search(alone, gate="flag"), alone.post("/v1/screen", json={"documents": "a"})):
        assert response.status_code == 400
        assert "refusal probabilities" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "greater than or equal to 1"),
        ({"k": 1001}, "less than or equal to 1000"),
        ({"query": ["a"] * 128, "k": 100}, "10,000 hits"),
        ({"query": ["a"] * 129}, "1 to 128"),
        ({"gate": "shut"}, "'allow', 'flag' or 'empty'"),
        ({"threshold": 2}, "less than or equal to 1"),
        ({"where": "number"}, "expected an object as a filter"),
        ({"where": {"number": {"$near": 3}}}, "expected one of $eq"),
    ],
)
def test_a_wrong_search_says_what_was_expected(
    client: Client, index: SearchableIndex, changes: dict[str, Any], message: str
) -> None:
    response = search(client(served_by(index=index)), **changes)
    assert response.status_code == 400
    code_of(response)
    assert message in response.json()["error"]["message"]


def test_without_an_index_there_is_no_search(client: Client) -> None:
    response = search(client())
    assert response.status_code == 400
    assert "no index to search" in response.json()["error"]["message"]


def test_a_search_sees_what_others_write(
    client: Client, index: SearchableIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safe_retrieval.server.engine._REFRESH_SECONDS", 0.0)
    from safe_retrieval.index.folder import load_index

    opened = client(served_by(index=index))
    with load_index(index.path) as other:
        other.add([Document("new", "a zeppelin")], HashEncoder().encode_documents(["a zeppelin"]))
    assert search(opened, query="a zeppelin").json()["data"][0]["hits"][0]["id"] == "new"
    (index.path / "manifest.json").write_text("{")
    assert search(opened, query="a zeppelin").json()["data"][0]["hits"][0]["id"] == "new"  # the open state stays


def test_screen_puts_the_most_likely_refused_first(client: Client) -> None:
    texts = ["harmless", "forbidden", "harmless too"]
    opened = client()
    body = opened.post("/v1/screen", json={"documents": texts, "model": NAME}).json()
    assert [row["index"] for row in body["results"]] == [1, 0, 2]
    assert [row["flagged"] for row in body["results"]] == [True, False, False]
    assert body["results"][0]["refusal_score"] == pytest.approx(0.96)
    assert (body["threshold"], body["usage"]["total_tokens"]) == (0.9, 4)
    top = opened.post(
        "/v1/screen", json={"documents": texts, "top_n": 1, "threshold": 0.97, "return_documents": True}
    ).json()
    assert top["results"] == [
        {"index": 1, "refusal_score": pytest.approx(0.96), "flagged": False, "document": "forbidden"}
    ]


def test_unknown_routes_and_methods_have_openais_shape(client: Client) -> None:
    opened = client()
    assert code_of(opened.get("/v1/nothing")) == "not_found"
    wrong = opened.get("/v1/embeddings")
    assert (wrong.status_code, code_of(wrong), wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_probes(client: Client) -> None:
    opened = client()
    assert opened.get("/healthz").json() == {"status": "ok"}
    assert opened.get("/readyz").json() == {"status": "ready"}
    opened.app.state.endpoints.draining = True
    response = opened.get("/readyz")
    assert (response.status_code, code_of(response), response.headers["retry-after"]) == (503, "draining", "5")
    assert opened.get("/healthz").status_code == 200


def test_metrics_count_and_name_no_path_that_was_asked_for(client: Client, index: SearchableIndex) -> None:
    opened = client(served_by(index=index), settings=ServerSettings(max_batch=2))
    embed(opened, input=["a"] * 3)
    search(opened, gate="flag")
    opened.get("/v1/secret-path")
    opened.get("/v1/models/secret-model")
    response = opened.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    for wanted in (
        'safe_retrieval_requests_total{route="/v1/embeddings",status="200"} 1.0',
        'safe_retrieval_requests_total{route="/v1/models/{name:path}",status="404"} 1.0',
        'safe_retrieval_requests_total{route="none",status="404"} 1.0',
        'safe_retrieval_problems_total{code="model_not_found"} 1.0',
        'safe_retrieval_texts_total{lane="query"} 6.0',  # one of them from the start
        'safe_retrieval_batch_texts_count{lane="query"} 4.0',
        'safe_retrieval_judged_texts_total{flagged="true"} 1.0',
        'safe_retrieval_waiting_texts{lane="document"} 0.0',
        "safe_retrieval_requests_in_progress 1.0",
    ):
        assert wanted in lines, wanted
    assert "secret" not in response.text
