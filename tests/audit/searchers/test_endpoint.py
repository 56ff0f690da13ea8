"""What one endpoint's client does beyond what the HTTP targets' tests show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from safe_retrieval.audit.searchers.endpoint import Endpoint, EndpointSettings, NoAnswerError


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
