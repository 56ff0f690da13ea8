from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from safe_retrieval.server.door import Door
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.observing import RequestRecord, _current
from safe_retrieval.server.settings import ServerSettings
from tests.server.conftest import Client
from tests.server.support import KEY, NAME, QueryEncoder, code_of, served_by

RING = KeyRing.of(KEY, "alice")
BODY = {"model": NAME, "input": "a"}


@pytest.mark.parametrize("given", [None, "", KEY, f"Basic {KEY}", "Bearer ", f"Bearer {KEY}x", "Bearer \xff\xfe"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/embeddings", "/metrics", "/openapi.json", "/nowhere"])
def test_without_a_known_key_nothing_is_answered(client: Client, given: str | None, path: str) -> None:
    headers = [] if given is None else [(b"authorization", given.encode("latin-1"))]
    response = client(keys=RING).get(path, headers=headers)
    assert (response.status_code, code_of(response)) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_known_key_is_let_in_from_anywhere(client: Client) -> None:
    headers = {"authorization": f"bearer {KEY}", "host": "search.example.org"}
    assert client(keys=RING, headers=headers).post("/v1/embeddings", json=BODY).status_code == 200


def test_probes_need_no_key(client: Client) -> None:
    opened = client(keys=RING)
    assert [opened.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


async def test_probes_need_no_key_where_the_application_is_mounted() -> None:
    app = Inside()
    door = Door(app, settings=ServerSettings(), keys=RING)
    scope = dict(SCOPE) | {"path": "/search/healthz", "root_path": "/search"}
    work = asyncio.ensure_future(door(scope, Inside(), Inside()))
    async with asyncio.timeout(5):
        await app.reached.wait()
    work.cancel()
    await asyncio.wait({work})


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_without_keys_a_loopback_name_is_answered(client: Client, host: str) -> None:
    assert client().get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "[", "127.0.0.1@evil.example", "", ":80"]
)
def test_without_keys_any_other_name_is_how_a_web_page_would_come_in(client: Client, host: str) -> None:
    response = client().get("/v1/models", headers={"host": host})
    assert (response.status_code, code_of(response)) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "address", ["203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9", "192.168.1.7", "testclient", ""]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_without_keys_another_machine_is_not_answered_whatever_host_it_names(
    client: Client, address: str, path: str
) -> None:
    opened = client(caller=(address, 4444), headers={"host": "localhost"})
    response = opened.get(path)
    assert (response.status_code, code_of(response)) == (403, "caller_not_allowed")
    assert opened.post("/v1/embeddings", json=BODY).status_code == 403


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_without_keys_this_machine_is_answered(client: Client, address: str) -> None:
    assert client(caller=(address, 4444)).get("/v1/models").status_code == 200


def test_with_a_key_another_machine_is_answered(client: Client) -> None:
    opened = client(caller=("203.0.113.9", 4444), keys=RING, headers={"authorization": f"Bearer {KEY}"})
    assert opened.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("server", "status"), [(("/run/ours.sock", None), 200), (("127.0.0.1", 80), 403), (None, 403)])
async def test_a_caller_without_an_address_comes_through_a_unix_socket_or_not_at_all(
    server: tuple[str, int | None] | None, status: int
) -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.sleep(30)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    _current.set(RequestRecord())
    door = Door(answering, settings=ServerSettings(), keys=KeyRing())
    await door(SCOPE | {"client": None, "server": server}, receive, send)
    assert sent[0]["status"] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read(client: Client, kind: str) -> None:
    response = client().post("/v1/embeddings", content=b"{}", headers={"content-type": kind})
    assert (response.status_code, code_of(response)) == (415, "unsupported_media_type")


def test_a_body_has_a_bound_whether_it_says_its_length_or_not(client: Client) -> None:
    opened = client(settings=ServerSettings(max_body=200))
    headers = {"content-type": "application/json"}

    def parts() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 50

    for body in (b" " * 500, parts()):
        response = opened.post("/v1/embeddings", content=body, headers=headers)
        assert (response.status_code, code_of(response)) == (413, "body_too_large")
    assert opened.post("/v1/embeddings", json=BODY).status_code == 200


def test_an_answer_has_its_time_and_the_next_request_is_answered(client: Client) -> None:
    encoder = QueryEncoder()
    opened = client(served_by(encoder), settings=ServerSettings(timeout=0.2))
    encoder.delay = 0.6
    response = opened.post("/v1/embeddings", json=BODY)
    assert (response.status_code, code_of(response)) == (504, "timeout")
    time.sleep(0.1)
    assert code_of(opened.get("/readyz")) == "stuck"
    encoder.delay = 0.0
    time.sleep(0.5)
    assert opened.post("/v1/embeddings", json=BODY).status_code == 200


class Inside:
    """An application that says when it was reached and whether it was cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/embeddings",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    "client": ("127.0.0.1", 4444),
}


async def through(app: Any, receive: Any, **settings: Any) -> tuple[list[Any], RequestRecord]:
    """Everything that is sent for one request, and its record."""
    sent: list[Any] = []
    record = RequestRecord()
    _current.set(record)

    async def send(message: Any) -> None:
        sent.append(message)

    await Door(app, settings=ServerSettings(**settings), keys=KeyRing())(dict(SCOPE), receive, send)
    return sent, record


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def receive() -> Any:
        await asyncio.sleep(30)

    sent, record = await through(Inside(), receive, body_timeout=0.05)
    assert (sent[0]["status"], record.code) == (408, "body_timeout")


@pytest.mark.parametrize("left_early", [False, True])
async def test_nobody_works_for_a_caller_who_hung_up(left_early: bool) -> None:
    app = Inside()
    messages: list[dict[str, Any]] = [] if left_early else [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if not left_early:
            await app.reached.wait()
        return {"type": "http.disconnect"}

    sent, record = await through(app, receive)
    assert (sent, record.status) == ([], 499)
    assert app.cancelled is not left_early


async def test_a_caller_who_does_not_read_keeps_no_place() -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.sleep(30)

    async def send(_: Any) -> None:
        await asyncio.sleep(30)  # the caller's window is full

    record = RequestRecord()
    _current.set(record)
    door = Door(answering, settings=ServerSettings(timeout=0.05), keys=KeyRing())
    async with asyncio.timeout(5):
        await door(dict(SCOPE), receive, send)
    assert record.status == 499


async def test_requests_in_progress_have_a_bound() -> None:
    app = Inside()
    door = Door(app, settings=ServerSettings(max_requests=1), keys=KeyRing())
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    first = asyncio.ensure_future(door(dict(SCOPE), receive, send))
    await app.reached.wait()
    await door(dict(SCOPE), receive, send)
    assert sent[0]["status"] == 429
    metrics = asyncio.ensure_future(door(dict(SCOPE) | {"path": "/metrics", "method": "GET"}, receive, send))
    await asyncio.sleep(0.05)
    assert all(message.get("status", 429) == 429 for message in sent)
    assert sum("status" in message for message in sent) == 1  # let in, and as slow as the application inside
    metrics.cancel()
    assert (b"retry-after", b"1") in sent[0]["headers"]
    first.cancel()
    await asyncio.wait({first})
    assert app.cancelled


async def test_there_are_no_websockets() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    door = Door(Inside(), settings=ServerSettings(), keys=KeyRing())
    await door({"type": "websocket", "path": "/", "headers": []}, Inside(), send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
