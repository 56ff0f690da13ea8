"""The network, closed: a connection to anything but the loopback interface ends the test or process that opens it.

The loopback interface stays open by design: there the tests ask stand-ins for servers, which leave nothing to chance.
Standard library only, since ``no_network/sitecustomize.py`` runs it in every Python that a test starts. An audit hook
sees what no patched function would: connections of any library that goes through Python's ``socket``.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname"}
_SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}


class NetworkUsedError(BaseException):
    """Not an ``Exception``: code under test that expects a broken network would swallow that."""


class _Guard:
    installed = False
    closed = False


def is_loopback(host: object) -> bool:
    """Whether a host is this machine's own loopback interface; no host at all is."""
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host is None or host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _Guard.closed or event not in _LOOKUPS | _SENDING:
        return
    if event in _LOOKUPS:
        host = arguments[0]
    elif isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return  # a path: a Unix socket; or None: a socket that is connected already
    if not is_loopback(host):
        raise NetworkUsedError(
            f"{event} to {host!r}: only tests marked real may leave the loopback interface; use a stand-in"
        )


def close_network() -> None:
    """From here on, in this process, :class:`NetworkUsedError` is raised where a connection is opened."""
    if not _Guard.installed:
        sys.addaudithook(_watch)  # for good: Python has no way to take one out
        _Guard.installed = True
    _Guard.closed = True


@contextmanager
def open_network() -> Iterator[None]:
    """Open what :func:`close_network` closed, and close it again afterwards."""
    _Guard.closed = False
    try:
        yield
    finally:
        close_network()
