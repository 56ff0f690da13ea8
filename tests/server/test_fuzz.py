"""The published schema, and requests made of it by schemathesis: no 5xx, and every answer is what the schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.server.app import create_app
from safe_retrieval.server.keys import KeyRing
from tests.server.support import KEY, code_of, running, served_by
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

AUTHORISED = {"authorization": f"Bearer {KEY}"}
EXAMPLES = 5
"""Of each operation and mode; more are a matter of time alone."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


OPERATIONS = {
    "POST /v1/embeddings",
    "POST /v1/search",
    "POST /v1/screen",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}


def test_nothing_that_the_schema_allows_or_forbids_breaks_the_server(index: SearchableIndex) -> None:
    with running(served_by(index=index), keys=KeyRing.of(KEY)) as server:
        document = httpx.get(f"{server.url}/openapi.json", headers=AUTHORISED).json()
        assert document["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
        tried = set()
        for operation in (result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()):
            tried.add(f"{operation.method.upper()} {operation.path}")
            fuzz(server.url, operation, schemathesis.GenerationMode.POSITIVE)
            if operation.method == "post":  # the others have nothing that could break the schema
                fuzz(server.url, operation, schemathesis.GenerationMode.NEGATIVE)
    assert tried == OPERATIONS


def nested(levels: int, innermost: Any) -> Any:
    for _ in range(levels):
        innermost = {"$not": innermost}
    return innermost


DEEPEST = 200
"""Levels that a body's parser still reads; test_app sends what it gives up on."""

HOSTILE: dict[str, Any] = {
    "nothing": {},
    "no object": ["year", 1],
    "text": "year = 1",
    "number": 1,
    "deep": nested(DEEPEST, {"a": 1}),
    "deep lists": {"a": json.loads("[" * DEEPEST + "]" * DEEPEST)},
    "wide": {"$or": [{"number": number} for number in range(5000)]},
    "many values": {"number": {"$in": list(range(20_000))}},
    "no values": {"number": {"$in": []}},
    "values in values": {"number": {"$in": [[1], {"a": 1}]}},
    "null among values": {"number": {"$in": [None, 1]}},
    "object as values": {"number": {"$in": {"a": 1}}},
    "text as values": {"number": {"$in": "abc"}},
    "list": {"number": [1, 2]},
    "object": {"number": {"a": {"b": 1}}},
    "no operators": {"number": {}},
    "unknown operator": {"number": {"$where": "sleep(9)"}},
    "operator as field": {"$gt": 1},
    "empty field": {"": 1},
    "long field": {"a" * 100_000: 1},
    "null in a field": {"a\0b": 1},
    "field as SQL": {"a') OR 1=1 --": 1},
    "value as SQL": {"number": "'; DROP TABLE documents; --"},
    "path of JSON": {"$.number": 1},
    "path within": {"number[0]": 1, "number.a": 1},
    "surrogate in a field": {"\ud800": 1},
    "surrogate in a value": {"number": "\ud800"},
    "surrogate among values": {"number": {"$in": ["\ud800"]}},
    "surrogate in words": {"$words": "\ud800"},
    "null in words": {"$words": "a\0b"},
    "not a number": {"number": float("nan")},
    "infinite": {"number": {"$gt": float("inf")}},
    "64 bits": {"number": -(2**63)},
    "65 bits": {"number": 2**63},
    "huge": {"number": {"$lt": 10**400}},
    "beyond a float": {"number": 1e308},
    "mixed bounds": {"number": {"$gt": 1, "$lt": "a"}},
    "boolean bound": {"number": {"$gt": True}},
    "null bound": {"number": {"$gt": None}},
    "no parts": {"$and": []},
    "parts as object": {"$and": {"a": 1}},
    "parts as null": {"$or": None},
    "parts of nothing": {"$or": [None, 1, "a"]},
    "not a list": {"$not": [1]},
    "no words": {"$words": ""},
    "marks for words": {"$words": '"*" NEAR( ^ - : AND OR'},
    "words as list": {"$words": ["a"]},
    "long phrase": {"$phrase": "violin " * 20_000},
    "words of a query": {"$words": "violin OR number:1 NOT *"},
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of one server over one index, for the whole table."""
    from starlette.testclient import TestClient

    folder = tmp_path_factory.mktemp("fuzz") / "index"
    build_index(small_corpus(20), HashEncoder(), folder, progress=False)
    with load_index(folder) as opened:
        app = create_app(served_by(index=opened))
        local = ("127.0.0.1", 50000)
        with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, client=local) as client:
            yield client


@pytest.mark.parametrize("where", HOSTILE.values(), ids=HOSTILE)
def test_no_filter_breaks_the_server(asked: Any, where: Any) -> None:
    """The schema says of ``where`` that it is an object and no more, so schemathesis hardly comes upon these."""
    body = json.dumps({"query": "violin", "where": where}).encode()
    response = asked.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert response.status_code in {200, 400}, response.text
    if response.status_code == 400:
        assert code_of(response) in {"invalid_value", "invalid_json"}
    again = asked.post("/v1/search", json={"query": "violin", "where": {"number": {"$lt": 3}}})
    assert [len(row["hits"]) for row in again.json()["data"]] == [3]


def fuzz(url: str, operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Cases that follow the schema, or cases that break it."""

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=url, headers=AUTHORISED, checks=CHECKS)

    ask()
