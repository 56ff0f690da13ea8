"""``safe-retrieval serve`` and ``safe-retrieval api-key``: the OpenAI-compatible HTTP server, and keys for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from safe_retrieval._extras import require
from safe_retrieval.cli._common import err
from safe_retrieval.cli._model_options import Adapter, Arithmetic, Backbone, Dtype, Policy
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD, RefusalGate
from safe_retrieval.server.keys import DEFAULT_LABEL, KeyRing, add_key
from safe_retrieval.server.settings import ServerSettings, check_exposure
from safe_retrieval.types import GateAction

_LIMITS = ServerSettings()
_KEY_VARIABLE = "SAFE_RETRIEVAL_API_KEY"


def serve(
    index: Annotated[Path | None, typer.Argument(help="An index folder to search.", show_default="no search")] = None,
    *,
    arm: Annotated[Arm, typer.Option(help="How queries become vectors; bm25 has none.")] = Arm.OUTPUT,
    gate: Annotated[
        GateAction, typer.Option(help="What is done with refused queries; a request may ask for more, never for less.")
    ] = GateAction.ALLOW,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refusal probability from which the gate fires.")
    ] = DEFAULT_THRESHOLD,
    encoder: Annotated[
        str, typer.Option(help="Document encoder, where no index says which.")
    ] = DEFAULT_DOCUMENT_ENCODER,
    adapter: Adapter = None,
    backbone: Backbone = None,
    policy: Policy = None,
    dtype: Dtype = Arithmetic.AUTO,
    name: Annotated[
        str | None, typer.Option(help="The model's name to callers.", show_default="safe-retrieval-ARM")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind to; any but loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of hashed API keys (safe-retrieval api-key).")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar=_KEY_VARIABLE,
            help="An API key; other users of this machine see arguments.",
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Texts in one forward pass.")] = _LIMITS.max_batch,
    max_waiting: Annotated[int, typer.Option(min=1, help="Texts that may wait; more get 429.")] = _LIMITS.max_waiting,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.")] = _LIMITS.max_body,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer.")] = _LIMITS.timeout,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds for requests in progress once it is told to stop.")
    ] = _LIMITS.drain_timeout,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection to fetch models.")] = False,
) -> None:
    """Serve embeddings, search and the refusal gate over HTTP, in OpenAI's shapes, until SIGTERM or Ctrl-C."""
    refusal_gate = RefusalGate(gate, threshold)
    limits = ServerSettings(
        max_batch=max_batch, max_waiting=max_waiting, max_body=max_body, timeout=timeout, drain_timeout=drain_timeout
    )
    if key is None and os.environ.get(_KEY_VARIABLE) == "":  # the option takes an empty variable for none
        raise InputError(f"{_KEY_VARIABLE} is set and empty, which would serve everybody; give it a key, or unset it")
    ring = (KeyRing() if keys is None else KeyRing.read(keys)) + (KeyRing() if key is None else KeyRing.of(key))
    check_exposure(host, has_keys=bool(ring))  # before minutes of loading, not after
    for module in ("fastapi", "prometheus_client", "uvicorn"):
        require(module, extra="server", purpose="safe-retrieval serve")
    from safe_retrieval.server.engine import open_served
    from safe_retrieval.server.run import bound, serve_on

    with bound(host, port) as listening:  # so is a port that is taken
        served = open_served(
            index,
            arm=arm,
            gate=refusal_gate,
            document_encoder=encoder,
            adapter=adapter,
            backbone=backbone,
            policy=policy,
            dtype=dtype,
            name=name,
            offline=offline,
            filter_seconds=limits.timeout,
        )
        serve_on(listening, served, settings=limits, keys=ring)


def api_key(
    path: Annotated[Path, typer.Argument(help="The key file; made if it is not there.", show_default=False)],
    *,
    label: Annotated[str, typer.Option(help="What logs call the key.")] = DEFAULT_LABEL,
) -> None:
    """Make an API key: print it once, and add its hash to a key file."""
    typer.echo(add_key(path, label))
    err().print(f"its hash is in {path}; the key itself is not kept anywhere", markup=False, soft_wrap=True)
