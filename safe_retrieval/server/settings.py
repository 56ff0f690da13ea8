"""What an operator may set, with bounds that keep a server answering whatever is sent to it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields

from safe_retrieval.errors import InputError

MAX_TEXTS = 2048
"""Texts of one request: OpenAI's own bound, which clients split by."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of a server; every one has a default that suits one model on one machine.

    Attributes:
        max_batch: most texts in one forward pass.
        batch_wait: seconds that an idle server waits for company before it computes; under load nothing waits for it.
        max_waiting: texts that may wait for a forward pass; what would exceed that is told to come again (429). A
            request is always taken when nothing else waits.
        max_requests: requests in progress at once, which bounds what bodies may hold of the memory (429).
        max_body: bytes of a request's body (413).
        body_timeout: seconds in which the body must have arrived (408).
        timeout: seconds in which a request must be answered (504); what it still waits for is then dropped.
        drain_timeout: seconds that requests in progress have to end once the server was told to stop.

    Raises:
        InputError: a limit is not a finite number above 0 (``batch_wait`` may be 0).
    """

    max_batch: int = 32
    batch_wait: float = 0.004
    max_waiting: int = 2 * MAX_TEXTS
    max_requests: int = 512
    max_body: int = 16 * 2**20
    body_timeout: float = 20.0
    timeout: float = 120.0
    drain_timeout: float = 30.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            lowest_is_fine = limit.name == "batch_wait" and value == 0
            if not (0 < value < math.inf or lowest_is_fine):  # NaN fails too
                raise InputError(f"expected {limit.name} above 0 and finite, got {value}")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own loopback interface."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # A socket for both versions writes IPv4 addresses as IPv6 ones, ::ffff:127.0.0.1.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def check_exposure(host: str, *, has_keys: bool) -> None:
    """Refuse an address that other machines can reach unless callers must show a key.

    Raises:
        InputError: ``host`` is not loopback and there are no keys.
    """
    if not has_keys and not is_loopback(host):
        raise InputError(
            f"{host} can be reached by other machines, and no API key is set: anybody could use this server; make a "
            "key with `safe-retrieval api-key keys.txt` and give --keys keys.txt, or bind to 127.0.0.1"
        )
