from __future__ import annotations

from typing import Any

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.server.settings import ServerSettings, check_exposure, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, has_keys=False)


EVERYWHERE = "0.0.0.0"  # noqa: S104  # what must be refused


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "192.0.2.1", "example.org", "localhost.example", "", "127.1.example"]
)
def test_any_other_address_does(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InputError, match="no API key is set"):
        check_exposure(host, has_keys=False)
    check_exposure(host, has_keys=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_batch": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"batch_wait": -1},
        {"drain_timeout": float("inf")},
    ],
)
def test_limits_are_finite_and_above_zero(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        ServerSettings(**changes)


def test_an_idle_server_need_not_wait_for_company() -> None:
    assert ServerSettings(batch_wait=0).batch_wait == 0
