"""A server without models: word-hash vectors, a verdict by word, an index of a few documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.errors import InputError
from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.server.engine import Served
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.run import bound, make_server
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import GateAction, QueryEncoding
from tests.support.encoders import HashEncoder

KEY = "a-key-of-more-than-twenty-characters"
NAME = "safe-retrieval-output"
BROKEN = "unbearable"
"""A word that the encoder refuses, as a model does whose numbers have no direction."""

BUG = "bug"
"""A word over which the encoder falls in a way that nobody foresaw; the message repeats the text."""


class QueryEncoder(HashEncoder):
    """Takes ``delay`` seconds for each pass, and notes the sizes of the passes."""

    def __init__(self, *, delay: float = 0.0, verdict: bool = True) -> None:
        super().__init__(refused=["forbidden"] if verdict else None)
        self.delay = delay
        self.batches: list[int] = []

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        self.batches.append(len(texts))
        time.sleep(self.delay)
        if any(BROKEN in text for text in texts):
            raise InputError("the model gives no direction for text 0")
        if any(BUG in text for text in texts):
            raise ZeroDivisionError(f"cannot divide by {texts}")
        return super().encode(texts)


class HeldEncoder(QueryEncoder):
    """Its passes do not end before ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        encoding = super().encode(texts)
        assert self.gate.wait(20)
        return encoding

    def wait_for_pass(self, number: int) -> None:
        """Until a pass of that number has begun; the first is the one from the start."""
        wait_until(lambda: len(self.batches) >= number)


def wait_until(come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def served_by(
    query: HashEncoder | None = None,
    *,
    index: SearchableIndex | None = None,
    gate: RefusalGate | None = None,
    judge: HashEncoder | None = None,
) -> Served:
    return Served(
        name=NAME,
        encoder=PairedEncoder(query or QueryEncoder(), HashEncoder()),
        count_tokens=lambda texts: [len(text.split()) for text in texts],
        gate=gate or RefusalGate(GateAction.ALLOW),
        judge=judge,
        index=index,
    )


@contextmanager
def running(served: Served, *, settings: ServerSettings | None = None, keys: KeyRing | None = None) -> Iterator[Any]:
    """A server on a free loopback port, in a thread; yields the ``uvicorn.Server`` with its address in ``url``."""
    with bound("127.0.0.1", 0) as listening:
        server = make_server(served, settings or ServerSettings(), keys or KeyRing())
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < deadline, "the server takes too long to start"
                time.sleep(0.01)
            yield server
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive(), "the server did not stop"


def code_of(response: httpx.Response) -> str:
    """The code of an error in OpenAI's shape, with its shape checked."""
    body: Mapping[str, Any] = response.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return str(body["error"]["code"])
