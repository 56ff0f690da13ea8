"""Unit tests open no socket to anywhere but the loopback interface: the guard in conftest.py is itself tested."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.support.network import NetworkUsedError, is_loopback

DOCUMENTATION_ADDRESS = "192.0.2.1"
"""RFC 5737: belongs to nobody."""

CONNECT = f"import socket; socket.create_connection(('{DOCUMENTATION_ADDRESS}', 80), timeout=1)"


def connect() -> None:
    socket.create_connection((DOCUMENTATION_ADDRESS, 80), timeout=1)


def look_up() -> None:
    socket.getaddrinfo("safe-retrieval.invalid", 443)


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (DOCUMENTATION_ADDRESS, 53))


@pytest.mark.parametrize("attempt", [connect, look_up, send])
def test_leaving_the_loopback_interface_ends_the_test(attempt: Callable[[], None]) -> None:
    with pytest.raises(NetworkUsedError, match="only tests marked real"):
        attempt()


def test_code_that_expects_a_broken_network_cannot_swallow_it() -> None:
    assert not issubclass(NetworkUsedError, Exception)


def test_programs_that_a_test_starts_are_cut_off_too() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "NetworkUsedError" in done.stderr


def test_loopback_stand_ins_can_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=answer)
        thread.start()
        socket.create_connection(("localhost", port), timeout=10).close()
        thread.join(timeout=10)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", None, b"localhost"])
def test_loopback_is(host: object) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", DOCUMENTATION_ADDRESS, "localhost.example", "::", "fe80::1"])
def test_loopback_is_not(host: object) -> None:
    assert not is_loopback(host)
