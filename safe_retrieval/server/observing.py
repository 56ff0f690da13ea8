"""The outermost layer: an id for every request, its metrics, and one line in the log that holds none of its texts."""

from __future__ import annotations

import json
import logging
import time
import traceback
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from safe_retrieval.server.asgi import Application, Message, Receive, Scope, Send
from safe_retrieval.server.metrics import Metrics

CLIENT_LEFT = 499
"""What nginx writes for a caller that hung up: never sent, only logged."""

log = logging.getLogger("safe_retrieval.server")


@dataclass(slots=True)
class RequestRecord:
    """What is remembered of a request; nothing here is made of what was sent but the counts.

    Attributes:
        id: also in the response's ``x-request-id``.
        status: of the response.
        texts: how many texts it held.
        tokens: how many tokens they had.
        key: label of the API key.
        code: of the problem that it was answered with.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: int = 500
    texts: int | None = None
    tokens: int | None = None
    key: str | None = None
    code: str | None = None


_current: ContextVar[RequestRecord] = ContextVar("request")


def current_request() -> RequestRecord:
    """The record of the request that is being answered; a record of its own outside of one."""
    return _current.get(RequestRecord())


class Observing:
    """Gives every request its record, and accounts for it at the end, however it ends."""

    def __init__(self, app: Application, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord()
        _current.set(record)  # each request runs in a context of its own
        began = time.perf_counter()
        self._metrics.began()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._account(scope, record, time.perf_counter() - began)

    def _account(self, scope: Scope, record: RequestRecord, seconds: float) -> None:
        route = str(getattr(scope.get("route"), "path", "none"))  # the pattern, not the path that was asked for
        code = record.code or ("server_failed" if record.status >= 500 else None)
        self._metrics.ended(route, record.status, seconds, code)
        fields = {
            "id": record.id,
            "method": scope["method"] if scope["method"] in _METHODS else "other",
            "route": route,
            "status": record.status,
            "milliseconds": round(1000 * seconds, 1),
            "texts": record.texts,
            "tokens": record.tokens,
            "key": record.key,
            "code": code,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        log.log(logging.ERROR if record.status == 500 else logging.INFO, "request", extra={"fields": present})


_TRUSTED = frozenset({"safe_retrieval", "uvicorn"})
"""Whose messages are known to be fixed words."""

_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})


class JsonLines(logging.Formatter):
    """One JSON object a line, made so that no text of a request can get into it.

    Of this package's and uvicorn's records, the message goes in *before* its arguments are filled in; what this package
    wants to tell, it tells in ``fields``. Messages of other libraries may repeat anything (asyncio's hold the ``repr``
    of exceptions), so of theirs only the place goes in. Of an exception it is its class and the places in the code,
    and not what it says.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._told(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            entry["error"] = type(error).__name__
            entry["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(entry, ensure_ascii=False)

    def _told(self, record: logging.LogRecord) -> dict[str, Any]:
        if record.name.partition(".")[0] in _TRUSTED:
            return {"event": str(record.msg).strip(), **getattr(record, "fields", {})}
        return {"event": "message withheld", "at": f"{record.pathname}:{record.lineno}"}
