"""The published schema, and requests made of it by schemathesis: no 5xx, and every answer is what the schema says."""

from __future__ import annotations

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.server.keys import KeyRing
from tests.server.support import KEY, running, served_by

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


def fuzz(url: str, operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Cases that follow the schema, or cases that break it."""

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=url, headers=AUTHORISED, checks=CHECKS)

    ask()
