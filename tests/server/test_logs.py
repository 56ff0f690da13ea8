"""Whatever is sent, the log holds none of it."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from typing import Any

import pytest

from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.observing import JsonLines
from safe_retrieval.server.run import logging_as_json
from tests.server.conftest import Client
from tests.server.support import BROKEN, BUG, KEY, NAME, served_by

SECRET = "xyzzy"


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_no_text_no_path_and_no_key_gets_into_the_log(client: Client, index: SearchableIndex) -> None:
    stream = io.StringIO()
    with logging_as_json(stream):
        opened = client(
            served_by(index=index), keys=KeyRing.of(KEY, "alice"), headers={"authorization": f"Bearer {KEY}"}
        )
        for text in (SECRET, f"{SECRET} {BROKEN}", f"{SECRET} {BUG}", f"{SECRET} forbidden"):
            opened.post("/v1/embeddings", json={"model": NAME, "input": text})
            opened.post("/v1/screen", json={"documents": [text]})
            opened.post("/v1/search", json={"query": text, "gate": "flag"})
        opened.post("/v1/embeddings", json={"model": SECRET, "input": 1, SECRET: 2, "user": SECRET})
        opened.post(
            f"/v1/{SECRET}?q={SECRET}", content=SECRET, headers={"content-type": SECRET, "x-request-id": SECRET}
        )
        opened.get(f"/v1/models/{SECRET}", headers={"authorization": f"Bearer {SECRET}"})
        opened.request(SECRET.upper(), "/v1/models")
        opened.get(f"/{SECRET}?q={SECRET}")
    assert SECRET not in stream.getvalue().lower()
    assert KEY not in stream.getvalue()
    requests = [line for line in lines_of(stream) if line["event"] == "request"]
    assert len(requests) == 17
    first = requests[0]
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/embeddings", 200)
    assert (first["texts"], first["tokens"], first["key"]) == (1, 1, "alice")
    assert first["milliseconds"] > 0
    assert len(first["id"]) == 32
    assert "code" not in first
    assert {line.get("code") for line in requests} >= {"invalid_value", "server_failed", "not_found", "invalid_api_key"}
    failed = next(line for line in requests if line["status"] == 500)
    assert failed["level"] == "error"


def test_of_an_exception_the_log_has_class_and_place() -> None:
    stream = io.StringIO()
    with logging_as_json(stream):
        try:
            int(SECRET)
        except ValueError:
            logging.getLogger("uvicorn.error").exception("could not read %s", SECRET)
        logging.getLogger("asyncio").error(f"future: <Task exception=ValueError({SECRET!r})>")
    uvicorns, asyncios = lines_of(stream)
    assert (uvicorns["event"], uvicorns["error"]) == ("could not read %s", "ValueError")
    assert "test_logs.py" in uvicorns["where"][0]
    assert asyncios["event"] == "message withheld"
    assert "test_logs.py" in asyncios["at"]
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("propagate", [False, True])
def test_what_libraries_would_write_past_the_root_goes_the_same_way(
    capsys: pytest.CaptureFixture[str], propagate: bool
) -> None:
    library = logging.getLogger("a-library")
    own = logging.StreamHandler(sys.stderr)
    library.handlers[:], library.propagate = [own], propagate
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_as_json(stream):
            library.warning("cannot read %s", SECRET)
            warnings.warn(f"cannot read {SECRET}", stacklevel=1)
        assert library.handlers == [own]
    assert [line["logger"] for line in lines_of(stream)] == ["a-library", "py.warnings"]
    assert SECRET not in stream.getvalue() + capsys.readouterr().err


def test_logging_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    with logging_as_json(io.StringIO()):
        assert isinstance(logging.getLogger().handlers[0].formatter, JsonLines)
    assert logging.getLogger().handlers == before
