"""The server as people start it, with the shipped 0.5B adapter and MiniLM, and what a process of its own shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import openai
import pytest

from safe_retrieval.audit.probes import ProbeKind, load_probe_set
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.index.builder import build_index
from safe_retrieval.types import Document

pytestmark = pytest.mark.real

BACKBONE = "qwen2.5-coder-0.5b-instruct"
KEY = "a-key-for-this-test-alone"
NAME = "safe-retrieval-output"
HARMLESS = ["who wrote the Iliad?", "What is the capital of France?", "How do tides work?"]
DOCUMENTS = [
    Document("iliad", "The Iliad is an ancient Greek epic attributed to Homer.", "Iliad"),
    Document("salt", "Table salt is sodium chloride, won from sea water or mined.", "Salt"),
    Document("tides", "Tides are raised by the gravity of the Moon and the Sun.", "Tides"),
]


class Running(NamedTuple):
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY)

    def post(self, path: str, **body: object) -> dict[str, object]:
        headers = {"authorization": f"Bearer {KEY}"}
        found: dict[str, object] = (
            httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=300).raise_for_status().json()
        )
        return found


@pytest.fixture(scope="module")
def encoder() -> InputEncoder:
    return InputEncoder.load()


@pytest.fixture(scope="module")
def server(encoder: InputEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    build_index(DOCUMENTS, encoder, folder / "index")
    command = [sys.executable, "-m", "safe_retrieval.cli.main", "serve", str(folder / "index"), "--port", "0"]
    environment = {**os.environ, "SAFE_RETRIEVAL_API_KEY": KEY}
    log = folder / "log.jsonl"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--backbone", BACKBONE, "--offline"], env=environment, stderr=errors, text=True
        )
    try:
        yield Running(_address(process, log), process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Where it listens, once it is ready."""
    deadline = time.monotonic() + 480
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                url = str(json.loads(line)["url"])
                if _ready(url):
                    return url
        time.sleep(0.2)
    pytest.fail(log.read_text())


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_documents_are_the_document_encoders(server: Running, encoder: InputEncoder) -> None:
    texts = [document.content for document in DOCUMENTS]
    found = server.client.embeddings.create(model=f"{NAME}-document", input=texts)
    assert np.allclose([row.embedding for row in found.data], encoder.encode_documents(texts), atol=1e-5)
    assert found.usage.prompt_tokens == sum(encoder.token_counts(texts))
    (model, _) = server.client.models.list()
    assert model.model_extra is not None
    assert (model.model_extra["space"], model.model_extra["dimensions"]) == (encoder.space, 384)


def test_many_callers_get_what_each_would_get_alone(server: Running) -> None:
    def vector(text: str) -> list[float]:
        return server.client.embeddings.create(model=NAME, input=text).data[0].embedding

    alone = np.array([vector(text) for text in HARMLESS])
    with ThreadPoolExecutor(12) as callers:
        together = np.array(list(callers.map(vector, HARMLESS * 4)))
    assert np.einsum("nd,nd->n", together, np.tile(alone, (4, 1))).min() > 0.999


def test_search_and_screen(server: Running) -> None:
    found = server.post("/v1/search", query=HARMLESS[0], k=3, gate="flag")
    (result,) = found["data"]  # type: ignore[misc]
    assert {hit["id"] for hit in result["hits"]} == {"iliad", "salt", "tides"}
    assert not result["flagged"]
    harmful = [probe.text for probe in load_probe_set().of_kind(ProbeKind.HARMFUL)[::33]]
    screened = server.post("/v1/screen", documents=[*HARMLESS, *harmful])
    verdicts: list[dict[str, float]] = screened["results"]  # type: ignore[assignment]
    scores = [verdict["refusal_score"] for verdict in verdicts]
    assert scores == sorted(scores, reverse=True)
    by_index = [score for _, score in sorted((verdict["index"], verdict["refusal_score"]) for verdict in verdicts)]
    assert np.mean(by_index[: len(HARMLESS)]) < np.mean(by_index[len(HARMLESS) :])


def test_it_ends_what_it_began_and_logged_no_text(server: Running) -> None:
    with ThreadPoolExecutor(4) as callers:
        texts = [f"{text} {number}" for number in range(2) for text in HARMLESS]
        calls = [callers.submit(server.post, "/v1/screen", documents=[text] * 4) for text in texts]
        time.sleep(0.5)  # all are sent, and not all can be answered yet
        server.process.send_signal(signal.SIGTERM)
        answered = [call for call in calls[:4] if call.exception() is None]
        assert len(answered) == 4
    assert server.process.wait(timeout=120) == 0
    log = server.log.read_text()
    assert not any(word in log for word in ("Iliad", "France", "tides", KEY))
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert events[-1] == "stopped"
    assert "draining" in events
