from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from safe_retrieval.cli import serve as command
from safe_retrieval.errors import ConfigError, InputError, MissingExtraError
from safe_retrieval.index.builder import build_index
from safe_retrieval.retrieval.arms import Arm, ArmLoader
from safe_retrieval.server import engine
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.types import GateAction
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder

CLI = CliRunner()
APP = typer.Typer()
APP.command("serve")(command.serve)
APP.command("api-key")(command.api_key)


class CountingEncoder(HashEncoder):
    """What stands in for the document encoder."""

    def token_counts(self, texts: Any) -> list[int]:
        return [len(text) for text in texts]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been served, without models and without serving; ``judges`` counts the language models."""
    calls: list[dict[str, Any]] = []

    def serve_on(listening: socket.socket, served: Any, **rest: Any) -> None:
        calls.append({"address": listening.getsockname(), "served": served, **rest})

    monkeypatch.setattr("safe_retrieval.server.run.serve_on", serve_on)
    monkeypatch.setattr("safe_retrieval.encoder.input.InputEncoder", CountingEncoder)
    monkeypatch.setattr(ArmLoader, "_input", lambda _: CountingEncoder())
    monkeypatch.setattr(ArmLoader, "_response", lambda _: HashEncoder(refused=["forbidden"]))
    monkeypatch.delenv("SAFE_RETRIEVAL_API_KEY", raising=False)
    return calls


def run(*arguments: object) -> Result:
    return CLI.invoke(APP, [str(argument) for argument in arguments])


def test_what_is_served_by_default(started: list[dict[str, Any]]) -> None:
    assert run("serve", "--port", 0).exit_code == 0
    (call,) = started
    served = call["served"]
    assert call["address"][0] == "127.0.0.1"
    assert (served.name, served.gate.action, served.index, served.judge) == (
        "safe-retrieval-output",
        GateAction.ALLOW,
        None,
        None,
    )
    assert (len(call["keys"]), call["settings"].max_batch) == (0, 32)
    assert served.count_tokens(["four"]) == [4]


def test_options_reach_the_server(started: list[dict[str, Any]], tmp_path: Path) -> None:
    build_index(small_corpus(5), HashEncoder(), tmp_path / "index")
    printed = run("api-key", tmp_path / "keys.txt", "--label", "alice")
    key = printed.stdout.strip()
    arguments = (
        "--port",
        0,
        "--arm",
        "input",
        "--gate",
        "empty",
        "--threshold",
        0.5,
        "--name",
        "text-embedding-3-small",
    )
    limits = ("--max-batch", 4, "--timeout", 5, "--keys", tmp_path / "keys.txt")
    result = run("serve", tmp_path / "index", *arguments, *limits)
    assert result.exit_code == 0, result.output
    (call,) = started
    served = call["served"]
    assert (served.name, served.gate.action, served.gate.threshold) == ("text-embedding-3-small", GateAction.EMPTY, 0.5)
    assert served.judge is not None  # the arm has no verdict, and the gate needs one
    assert len(served.index) == 5
    assert served.index._opening.filter_seconds == 5.0
    assert (call["settings"].max_batch, call["settings"].timeout) == (4, 5.0)
    assert call["keys"].identify(key) == "alice"
    assert "not kept anywhere" in printed.stderr


def test_a_key_from_the_environment(started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_API_KEY", "a-key-of-more-than-twenty-characters")
    assert run("serve", "--port", 0).exit_code == 0
    ring: KeyRing = started[0]["keys"]
    assert ring.identify("a-key-of-more-than-twenty-characters") == "key"


def test_an_empty_key_in_the_environment_is_no_server_without_keys(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_API_KEY", "")
    error = run("serve", "--port", 0).exception
    assert isinstance(error, InputError)
    assert "SAFE_RETRIEVAL_API_KEY is set and empty" in str(error)
    assert started == []


@pytest.mark.parametrize("module", ["fastapi", "prometheus_client", "uvicorn"])
def test_a_missing_extra_shows_before_models_are_loaded(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    def loaded(_: ArmLoader) -> None:
        pytest.fail("models were loaded first")

    monkeypatch.setattr(ArmLoader, "_response", loaded)
    monkeypatch.setitem(sys.modules, module, None)
    result = run("serve", "--port", 0)
    assert isinstance(result.exception, MissingExtraError)
    assert "safe-retrieval[server]" in str(result.exception)
    assert started == []


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--host", "192.0.2.1"], InputError, "no API key is set"),
        (["--key", "short"], InputError, "at least 20 characters"),
        (["--keys", "missing.txt"], ConfigError, "cannot be read"),
        (["--timeout", "0"], InputError, "timeout above 0"),
        (["--arm", "bm25", "--port", "0"], InputError, "arm with vectors"),
    ],
)
def test_what_cannot_be_served_is_said_before_models_are_loaded(
    started: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(ArmLoader, "_response", lambda _: pytest.fail("a model was loaded"))
    result = run("serve", *arguments)
    assert isinstance(result.exception, kind), result.output
    assert message in str(result.exception)
    assert started == []


def test_a_port_that_is_taken(started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "open_served", lambda *_, **__: pytest.fail("a model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", taken.getsockname()[1])
    assert isinstance(result.exception, InputError)
    assert "give another --host or --port" in str(result.exception)


def test_the_arm_names_the_model(started: list[dict[str, Any]]) -> None:
    for arm in (Arm.INPUT, Arm.OUTPUT):
        run("serve", "--port", 0, "--arm", arm)
    assert [call["served"].name for call in started] == ["safe-retrieval-input", "safe-retrieval-output"]
