"""Who comes in, and with how much: host, key, number of requests, kind and size of the body, and time for an answer.

All of it is decided before the application sees the request, and a body is read only for those who may send one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from safe_retrieval.server.asgi import Application, Message, Receive, Scope, Send, answer, header
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.observing import CLIENT_LEFT, current_request
from safe_retrieval.server.problems import BusyError, Problem, ProblemError
from safe_retrieval.server.settings import ServerSettings, is_loopback

PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
"""Asked by an orchestrator, which has no key; they tell nothing but whether the server lives."""

_UNAUTHORISED = Problem(
    401, "expected an API key that this server knows in the header 'Authorization: Bearer ...'", "invalid_api_key"
)
_OTHER_HOST = Problem(
    403,
    "a server without API keys answers only under a loopback name (localhost, 127.0.0.1): another name in the Host "
    "header is how a web page would reach it through your browser",
    "host_not_allowed",
)
_OTHER_MACHINE = Problem(
    403,
    "a server without API keys answers only callers on its own machine; have its operator make a key (`safe-retrieval "
    "api-key`), and send it",
    "caller_not_allowed",
)
_NOT_JSON = Problem(415, "expected a body of Content-Type application/json", "unsupported_media_type")
_BODY_LATE = Problem(408, "the body did not arrive in time; send it again", "body_timeout")
_TOO_LATE = Problem(504, "no answer in the time that this server allows; send fewer texts at once", "timeout")


class _ClientLeft(Exception):  # noqa: N818  # not an error: the caller hung up, or does not read
    pass


class Door:
    """Lets requests in one by one, with their whole body, and sees them out in time."""

    def __init__(self, app: Application, *, settings: ServerSettings, keys: KeyRing) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _path(scope) in PROBES:
            await self._app(scope, _replaying(b""), send)
        else:
            try:
                await self._admit(scope, receive, send)
            except ProblemError as error:
                current_request().code = error.problem.code
                await answer(send, error.problem)
            except _ClientLeft:
                current_request().status = CLIENT_LEFT

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_caller(scope)
        if _path(scope) == METRICS:  # wanted most when everything is full, and it costs no pass
            await self._in_time(scope, b"", receive, send)
            return
        if self._inside >= self._settings.max_requests:
            raise BusyError(1)
        self._inside += 1
        try:
            body = await self._body(scope, receive) if scope["method"] == "POST" else b""
            await self._in_time(scope, body, receive, send)
        finally:
            self._inside -= 1

    def _check_caller(self, scope: Scope) -> None:
        if not self._keys:
            if not _is_local(scope):
                raise ProblemError(_OTHER_MACHINE)
            if not is_loopback(_without_port(header(scope, "host") or "")):
                raise ProblemError(_OTHER_HOST)
            return
        scheme, _, presented = (header(scope, "authorization") or "").partition(" ")
        label = self._keys.identify(presented.strip()) if scheme.lower() == "bearer" else None
        if label is None:
            raise ProblemError(_UNAUTHORISED)
        current_request().key = label

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, of the right kind and within bounds."""
        kind = (header(scope, "content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ProblemError(_NOT_JSON)
        declared = header(scope, "content-length")
        if declared is not None and declared.isdecimal() and int(declared) > self._settings.max_body:
            raise ProblemError(self._too_large())
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                return await self._received(receive)
        except TimeoutError as error:
            raise ProblemError(_BODY_LATE) from error

    async def _received(self, receive: Receive) -> bytes:
        parts = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            parts += message.get("body", b"")
            if len(parts) > self._settings.max_body:
                raise ProblemError(self._too_large())
            if not message.get("more_body", False):
                return bytes(parts)

    def _too_large(self) -> Problem:
        return Problem(413, f"expected a body of at most {self._settings.max_body:,} bytes", "body_too_large")

    async def _in_time(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it has answered, the time is over, or the caller has hung up.

        An answer that has begun has the same time again to be read.
        """
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        work = asyncio.ensure_future(self._app(scope, _replaying(body), noting))
        left = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({work, left}, timeout=self._settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if started:
                await asyncio.wait({work}, timeout=self._settings.timeout)
            if work.done():
                await work
            elif started or left.done():  # a caller who does not read must not keep a place for ever
                raise _ClientLeft
            else:
                raise ProblemError(_TOO_LATE)
        finally:
            for task in (work, left):
                task.cancel()
            await asyncio.gather(work, left, return_exceptions=True)  # an error of what nobody waits for is nobody's


def _path(scope: Scope) -> str:
    """The path within this application, which may be mounted under another one."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


def _is_local(scope: Scope) -> bool:
    """Whether a caller's connection comes from this machine.

    The Host header is the caller's own word, so it alone keeps nobody out. A Unix socket has a path and no port, and
    its callers no address.
    """
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return server is not None and server[1] is None
    return is_loopback(client[0])


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isdecimal() or not port) else host


async def _left(receive: Receive) -> None:
    """Return when the caller hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _replaying(body: bytes) -> Receive:
    """``receive`` of a request whose body is here already."""
    messages: list[Mapping[str, object]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return dict(messages.pop()) if messages else {"type": "http.disconnect"}

    return receive
