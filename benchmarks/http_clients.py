"""Clients of an HTTP server, many at once, for a process that imports nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

TIMEOUT = 600.0
"""Seconds that a client waits, and that the servers are given."""


class Round(NamedTuple):
    """What the clients saw: seconds of the whole, seconds of each answered request, and how many were not."""

    seconds: float
    latencies: list[float]
    errors: int


def ask_at_once(url: str, model: str, texts: Sequence[str], clients: int) -> Round:
    """Send every text to ``/v1/embeddings`` as a request of its own, ``clients`` at a time."""
    return asyncio.run(_ask(url, model, texts, clients))


async def _ask(url: str, model: str, texts: Sequence[str], clients: int) -> Round:
    waiting, latencies, errors = list(reversed(texts)), [], 0
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal errors
        while waiting:
            body = {"model": model, "input": waiting.pop(), "encoding_format": "base64"}
            began = time.perf_counter()
            try:
                response = await session.post("/v1/embeddings", json=body)
            except httpx.HTTPError:
                errors += 1
                continue
            if response.status_code == httpx.codes.OK:
                latencies.append(time.perf_counter() - began)
            else:
                errors += 1

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return Round(time.perf_counter() - began, latencies, errors)
