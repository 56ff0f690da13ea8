"""A search endpoint on the loopback interface, with the faults that endpoints have; and an embeddings endpoint."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from safe_retrieval.audit.probes import ProbeSet
from tests.audit.retrievers import Searching
from tests.support.encoders import HashEncoder


class Fault(StrEnum):
    """What is wrong with it."""

    NONE = "none"
    SLOW = "slow"
    HALF_FAILS = "half fails"
    HALF_BROKEN_JSON = "half broken JSON"
    BROKEN_JSON = "broken JSON"
    TOO_FEW = "too few"
    DUPLICATES = "duplicates"
    UNKNOWN_IDS = "unknown ids"
    NO_LIST = "no list"
    NO_SCORE = "no score"
    FORBIDDEN = "forbidden"
    REDIRECT = "redirect"
    HANGS = "hangs"
    LIMITED = "limited"


@dataclass
class StandIn:
    """What the server was asked, and where it is."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)


@contextmanager
def search_endpoint(searching: Searching, fault: Fault = Fault.NONE) -> Iterator[StandIn]:
    """Serve ``searching`` at ``/search`` and its embedder at ``/v1/embeddings``; loopback only."""
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/embeddings":
                self._send(200, _embedded(body["input"]))
                return
            self._search(body["query"], int(body["k"]))

        def do_GET(self) -> None:
            sent = parse_qs(urlsplit(self.path).query)
            self._search(sent["q"][0], int(sent["n"][0]))

        def _search(self, query: str, k: int) -> None:
            state.times.append(time.monotonic())
            state.headers.append(self.headers.get("Authorization"))
            state.asked[query] += 1
            status, content = _answer(searching, query, k, fault, state.asked[query])
            self._send(status, content)

        def _send(self, status: int, content: Any) -> None:
            raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/search")
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


_FAILING = {
    Fault.HALF_FAILS: (503, {"error": "busy"}),
    Fault.LIMITED: (429, {"error": "slow down"}),
    Fault.HALF_BROKEN_JSON: (200, '{"results": [{"id": '),
    Fault.BROKEN_JSON: (200, '{"results": [{"id": '),
    Fault.FORBIDDEN: (403, {"error": "who are you?"}),
    Fault.REDIRECT: (302, {}),
    Fault.NO_LIST: (200, {"hits": []}),
}
_HALF = {Fault.HALF_FAILS, Fault.LIMITED, Fault.HALF_BROKEN_JSON}
_DELAYS = {Fault.SLOW: 0.02, Fault.HANGS: 1.0}


def _answer(searching: Searching, query: str, k: int, fault: Fault, attempt: int) -> tuple[int, Any]:
    time.sleep(_DELAYS.get(fault, 0.0))
    passes = fault in _HALF and (attempt > 1 or len(query) % 2 == 0)  # about half of the queries fail the first time
    if fault in _FAILING and not passes:
        return _FAILING[fault]
    hits = searching._one(query, k).hits
    return 200, {"results": _altered([{"id": hit.id, "score": hit.score, "text": hit.text} for hit in hits], fault, k)}


def _altered(rows: list[dict[str, Any]], fault: Fault, k: int) -> list[dict[str, Any]]:
    match fault:
        case Fault.TOO_FEW:
            return rows[:3]
        case Fault.DUPLICATES:
            return [rows[0], *rows][:k]
        case Fault.UNKNOWN_IDS:
            return [{**row, "id": f"other-{row['id']}", "text": "other"} for row in rows]
        case Fault.NO_SCORE:
            return [{**row, "score": None} for row in rows]
        case _:
            return rows


def _embedded(texts: list[str]) -> dict[str, Any]:
    vectors = HashEncoder().encode_queries(texts)
    rows = [{"index": place, "embedding": row.tolist()} for place, row in enumerate(vectors)]
    return {"data": rows[::-1]}  # in another order, as the form allows


def holding(probe_set: ProbeSet) -> Searching:
    """A retriever that was filled with the probes' passages."""
    return Searching(probe_set.documents)
