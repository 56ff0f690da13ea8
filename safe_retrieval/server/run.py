"""Serving: bind, answer, and on SIGTERM or SIGINT finish what was begun before going."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from safe_retrieval._extras import require
from safe_retrieval.errors import InputError, ModelError
from safe_retrieval.server.app import PURPOSE, create_app
from safe_retrieval.server.engine import Served
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.observing import JsonLines, log
from safe_retrieval.server.settings import ServerSettings, check_exposure

_BACKLOG = 2048
_KEEP_ALIVE = 30
"""Seconds that an idle connection is kept."""


def serve(
    served: Served,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: ServerSettings | None = None,
    keys: KeyRing | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then end what is in progress and return; a second SIGINT ends at once.

    Runs in the main thread of a program, where signals arrive.

    Args:
        served: models and index.
        host: address to bind to.
        port: port to bind to; 0 takes a free one, which the log names.
        settings: limits; ``None`` takes the defaults.
        keys: accepted API keys.

    Raises:
        InputError: the address can be reached from elsewhere and there are no keys, or it cannot be bound to.
        MissingExtraError: fastapi, uvicorn or prometheus-client is not installed.
    """
    check_exposure(host, has_keys=bool(keys))
    with bound(host, port) as listening:
        serve_on(listening, served, settings=settings, keys=keys)


def serve_on(
    listening: socket.socket, served: Served, *, settings: ServerSettings | None = None, keys: KeyRing | None = None
) -> None:
    """:func:`serve` on a socket that is bound already, as :func:`bound` gives it.

    Raises:
        InputError, MissingExtraError: as :func:`serve`.
        ModelError: the models are loaded and cannot be computed with.
    """
    settings, keys = settings or ServerSettings(), keys or KeyRing()
    host, port = listening.getsockname()[:2]
    check_exposure(host, has_keys=bool(keys))
    with logging_as_json(sys.stderr), _signals_end_quietly():
        server = make_server(served, settings, keys)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        fields = {"url": url, "model": served.name, "keys": len(keys), "gate": served.gate.action.value}
        log.info("listening", extra={"fields": fields})
        with suppress(SystemExit):  # uvicorn's way to say that the application did not start
            server.run(sockets=[listening])
        if not server.started and not server.config.app.state.endpoints.draining:
            raise ModelError("the server did not start: its first pass failed; the log has the reason")
        log.info("stopped")


def make_server(served: Served, settings: ServerSettings, keys: KeyRing) -> Any:
    """The ``uvicorn.Server``; once it is told to exit, the application knows.

    Hardly anybody can ask for that state: uvicorn closes the port before it waits for what is in progress.
    """
    uvicorn: Any = require("uvicorn", extra="server", purpose=PURPOSE)
    app = create_app(served, settings=settings, keys=keys)

    class DrainingServer(uvicorn.Server):  # type: ignore[misc]  # the base is an optional dependency
        def handle_exit(self, sig: int, frame: Any) -> None:
            app.state.endpoints.draining = True
            log.info("draining", extra={"fields": {"signal": signal.Signals(sig).name}})
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_config=None,  # ours; uvicorn's own lines would hold paths and queries
        access_log=False,
        lifespan="on",
        ws="none",
        backlog=_BACKLOG,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
    )
    return DrainingServer(config)


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, closed afterwards.

    Raises:
        InputError: the address does not exist here, is taken or forbidden.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error}; give another --host or --port") from error
    with listening:
        yield listening


@contextmanager
def logging_as_json(stream: TextIO) -> Iterator[None]:
    """Every line of every library goes through the formatter that lets no text of a request through.

    Warnings too, and what the libraries that are imported by now (torch and transformers among them) would write to
    the terminal through handlers of their own.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    root, level, shown = logging.getLogger(), log.level, warnings.showwarning
    known = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = {each: each.handlers[:] for each in (root, *known)}
    for each in known:
        kept = [own for own in each.handlers if not isinstance(own, logging.StreamHandler)]
        # One that passes its records on would have each line twice.
        each.handlers[:] = kept if each.propagate or kept == each.handlers else [*kept, handler]
    root.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        if warnings.showwarning is not shown:  # else somebody else captures them
            logging.captureWarnings(False)
        for each, handlers in before.items():
            each.handlers[:] = handlers
        log.setLevel(level)


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal again after it has drained, which would make a failure of an orderly end."""

    def nothing(_signal: int, _frame: Any) -> None:
        pass

    before: dict[signal.Signals, Callable[..., Any] | int | None] = {
        number: signal.signal(number, nothing) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
