"""What one endpoint's client does beyond what the HTTP targets' tests show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from safe_retrieval.audit.searchers.endpoint import Endpoint, EndpointSettings, NoAnswerError, public_settings


class _Dripping:
    """An answer of which a little comes every now and then, without end."""

    def iter_bytes(self) -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield b" "


def test_an_answer_that_does_not_end_is_none() -> None:
    endpoint = Endpoint(EndpointSettings(url="http://127.0.0.1:9/search", timeout=0.05), "drips")
    answer: Any = _Dripping()
    with pytest.raises(NoAnswerError, match=r"no whole answer within 0\.05 s"):
        endpoint._read(answer, time.monotonic() + 0.05)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/${K}/query", "https://h.example/${K}/query"),
        ("https://me:${K}@h.example:8443/query?key=${K}#${K}", "https://h.example:8443/query"),
        ("${K}", "${K}"),
    ],
)
def test_no_value_of_the_environment_is_shown(url: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "https://s3cr3t.example/key")
    settings = EndpointSettings(url=url)
    monkeypatch.setattr("safe_retrieval.audit.searchers.endpoint.filled", lambda text: text.replace("${K}", "s3cr3t"))
    assert Endpoint(settings, "t").shown == public_settings(settings)["url"] == shown


def test_parameters_come_beside_those_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def answered(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        return httpx.Response(200, json={})

    endpoint = Endpoint(EndpointSettings(url="http://h/search?index=docs&q=old"), "t")
    monkeypatch.setattr(endpoint, "_client", httpx.Client(transport=httpx.MockTransport(answered)))
    endpoint.ask(lambda answer: answer, method="GET", params={"q": "a b"})
    endpoint.ask(lambda answer: answer, json={"q": "a"})
    assert sent == ["http://h/search?index=docs&q=a+b", "http://h/search?index=docs&q=old"]


def test_addresses_that_differ_in_a_parameter_are_told_apart_without_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEARCH_KEY", "secret")
    address = "http://127.0.0.1:9/search?key=${SEARCH_KEY}&index="
    one, other = (Endpoint(EndpointSettings(url=address + name), "t") for name in "ab")
    assert one.shown == other.shown == "http://127.0.0.1:9/search"
    assert one.sha256 != other.sha256
    monkeypatch.setenv("SEARCH_KEY", "another")
    assert Endpoint(EndpointSettings(url=address + "a"), "t").sha256 == one.sha256
