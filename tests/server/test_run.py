"""A real server on the loopback interface, asked by the clients that people have."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from safe_retrieval.errors import InputError, ModelError
from safe_retrieval.server.keys import KeyRing
from safe_retrieval.server.run import bound, serve
from safe_retrieval.server.settings import ServerSettings
from tests.server.support import KEY, NAME, HeldEncoder, QueryEncoder, running, served_by, wait_until
from tests.support.encoders import HashEncoder


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with running(served_by(), keys=KeyRing.of(KEY)) as started:
        yield started


def test_the_openai_client(server: Any) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    texts = ["the violin", "the harbour"]
    for arguments in ({}, {"encoding_format": "float"}, {"dimensions": 32}):
        found = client.embeddings.create(model=NAME, input=texts, **arguments)  # type: ignore[call-overload]
        assert np.allclose([row.embedding for row in found.data], HashEncoder().encode_queries(texts), atol=1e-6)
        assert found.usage.prompt_tokens == 4
    documents = client.embeddings.create(model=NAME, input="a", extra_body={"input_type": "document"})
    assert len(documents.data[0].embedding) == 32
    assert [model.id for model in client.models.list()] == [NAME, f"{NAME}-document"]
    assert client.models.retrieve(NAME).object == "model"
    with pytest.raises(openai.BadRequestError, match="got token ids"):
        client.embeddings.create(model=NAME, input=[[1, 2]])
    with pytest.raises(openai.BadRequestError, match="cannot be shortened") as caught:
        client.embeddings.create(model=NAME, input="a", dimensions=8)
    assert (caught.value.code, caught.value.param) == ("dimensions_not_supported", "dimensions")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="gpt-4", input="a")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="no").models.list()


async def test_the_async_openai_client(server: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        calls = [client.embeddings.create(model=NAME, input=f"violin {n}") for n in range(20)]
        found = await asyncio.gather(*calls)
    wanted = HashEncoder().encode_queries([f"violin {n}" for n in range(20)])
    assert np.allclose([row.data[0].embedding for row in found], wanted, atol=1e-6)


async def test_langchains_openai_embeddings(server: Any) -> None:
    from langchain_openai import OpenAIEmbeddings

    def embeddings(model: str) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(
            model=model,
            base_url=f"{server.url}/v1",
            api_key=KEY,
            check_embedding_ctx_length=False,  # type: ignore[arg-type]
        )

    texts = [f"violin {n}" for n in range(1100)]  # more than it sends at once
    assert np.allclose(embeddings(f"{NAME}-document").embed_documents(texts), HashEncoder().encode_documents(texts))
    assert np.allclose(await embeddings(NAME).aembed_query("a"), HashEncoder().encode_queries(["a"])[0])


def test_64_clients_at_once_are_all_answered_rightly_and_share_passes() -> None:
    encoder = QueryEncoder(delay=0.01)
    wrong: list[Any] = []

    def ask(number: int, url: str) -> None:
        with httpx.Client(base_url=url) as client:
            for turn in range(4):
                text = f"violin {number} {turn}"
                response = client.post("/v1/embeddings", json={"model": NAME, "input": text})
                wanted = HashEncoder().encode_queries([text])[0]
                if response.status_code != 200 or not np.allclose(response.json()["data"][0]["embedding"], wanted):
                    wrong.append(response)

    with running(served_by(encoder)) as server:
        threads = [threading.Thread(target=ask, args=(number, server.url)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert wrong == []
    assert sum(encoder.batches) == 256 + 1  # one of them from the start
    assert len(encoder.batches) < 128


def figures(server: Any) -> list[str]:
    return httpx.get(f"{server.url}/metrics").text.splitlines()


def asking(url: str, found: list[int]) -> threading.Thread:
    """A caller in a thread, who notes the status of the answer."""

    def ask() -> None:
        found.append(httpx.post(f"{url}/v1/embeddings", json={"model": NAME, "input": "a"}, timeout=30).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_too_much_work_is_sent_away_and_comes_back_later() -> None:
    encoder = HeldEncoder()
    found: list[int] = []
    with running(served_by(encoder), settings=ServerSettings(max_batch=1, max_waiting=1)) as server:
        encoder.gate.clear()
        calls = [asking(server.url, found)]
        encoder.wait_for_pass(2)
        calls.append(asking(server.url, found))
        wait_until(lambda: 'safe_retrieval_waiting_texts{lane="query"} 1.0' in figures(server))
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model=NAME, input="b")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        threading.Timer(0.2, encoder.gate.set).start()
        assert client.with_options(max_retries=5).embeddings.create(model=NAME, input="b").data
        for call in calls:
            call.join(timeout=20)
    assert found == [200, 200]


def is_open(url: str) -> bool:
    try:
        httpx.get(f"{url}/readyz")
    except httpx.TransportError:  # refused, or cut off while the port was being closed
        return False
    return True


def test_what_is_in_progress_is_finished_when_the_server_is_told_to_stop() -> None:
    encoder = HeldEncoder()
    found: list[int] = []
    with running(served_by(encoder)) as server:
        encoder.gate.clear()
        call = asking(server.url, found)
        encoder.wait_for_pass(2)
        server.handle_exit(signal.SIGTERM, None)
        assert server.config.app.state.endpoints.draining
        wait_until(lambda: not is_open(server.url))  # as docs/server.md says: the port is closed, and no 503 is seen
        assert found == []
        threading.Timer(0.2, encoder.gate.set).start()
        call.join(timeout=20)
    assert found == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


def test_a_caller_who_hangs_up_costs_no_pass() -> None:
    encoder = HeldEncoder()
    gone = 'safe_retrieval_requests_total{route="/v1/embeddings",status="499"} 3.0'
    with running(served_by(encoder), settings=ServerSettings(max_batch=1)) as server:
        encoder.gate.clear()
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/embeddings", json={"model": NAME, "input": "a"}, timeout=0.2)
        wait_until(lambda: gone in figures(server))
        encoder.gate.set()
        httpx.post(f"{server.url}/v1/embeddings", json={"model": NAME, "input": "a"}).raise_for_status()
    assert len(encoder.batches) == 3  # the one from the start, the one that had begun, and the last


def test_models_that_cannot_be_computed_with_are_an_error_and_no_server() -> None:
    class Failing(QueryEncoder):
        def encode(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("a weight is missing")

    with pytest.raises(ModelError, match="did not start"):
        serve(served_by(Failing()), port=0)


def test_addresses_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match="no API key is set"):
        serve(served_by(), host="0.0.0.0", port=0)  # noqa: S104  # what must be refused
    with bound("127.0.0.1", 0) as taken, pytest.raises(InputError, match="give another --host or --port"):
        serve(served_by(), port=taken.getsockname()[1])
    with bound("localhost", 0) as listening:
        assert listening.family in {socket.AF_INET, socket.AF_INET6}
