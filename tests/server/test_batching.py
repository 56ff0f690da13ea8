from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from safe_retrieval.server.batching import Batcher, Encoded, Pass
from safe_retrieval.server.problems import BusyError


class Model:
    """A text's vector is its length; the gate holds a pass back until it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, texts: Sequence[str]) -> Encoded:
        self.batches.append(list(texts))
        assert self.gate.wait(10)
        if "bad" in texts:
            raise ValueError("bad text")
        lengths = np.array([len(text) for text in texts])
        return Encoded(lengths[:, None].astype(np.float32), (lengths / 100).astype(np.float32), lengths)


@asynccontextmanager
async def lane(model: Any, **changes: Any) -> AsyncIterator[Batcher]:
    settings: dict[str, Any] = {"max_batch": 4, "wait": 0.0, "max_waiting": 100, "observe": lambda _: None}
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher("query", model, executor, **settings | changes)
        batcher.start()
        try:
            yield batcher
        finally:
            await batcher.close()


@asynccontextmanager
async def held(**changes: Any) -> AsyncIterator[tuple[Batcher, Model, Callable[..., asyncio.Task[Encoded]]]]:
    """A lane whose pass for one text ``first`` is under way and held; yields what sends further requests."""
    model = Model()
    async with AsyncExitStack() as stack:
        batcher = await stack.enter_async_context(lane(model, **changes))
        stack.callback(model.gate.set)
        model.gate.clear()

        def send(*texts: str) -> asyncio.Task[Encoded]:
            return asyncio.ensure_future(batcher.encode(texts))

        send("first")
        while not model.batches:
            await asyncio.sleep(0.001)
        yield batcher, model, send


async def test_a_lone_request_is_computed_alone_and_in_order() -> None:
    model = Model()
    async with lane(model, max_batch=2) as batcher:
        encoded = await batcher.encode(["a", "bbb", "cc"])
    assert encoded.vectors.tolist() == [[1], [3], [2]]
    assert encoded.refusal is not None
    assert encoded.refusal.tolist() == pytest.approx([0.01, 0.03, 0.02])
    assert encoded.tokens.tolist() == [1, 3, 2]
    assert model.batches == [["a", "bbb"], ["cc"]]


async def test_what_arrives_during_a_pass_shares_the_next() -> None:
    passes: list[Pass] = []
    async with held(observe=passes.append) as (batcher, model, send):
        answers = [send("a"), send("bb"), send("ccc")]
        await asyncio.sleep(0)
        assert batcher.waiting == 3
        assert batcher.running_for > 0
        model.gate.set()
        found = [(await answer).vectors.tolist() for answer in answers]
    assert found == [[[1]], [[2]], [[3]]]
    assert model.batches == [["first"], ["a", "bb", "ccc"]]
    assert [(done.lane, done.texts, done.requests) for done in passes] == [("query", 1, 1), ("query", 3, 3)]
    assert batcher.running_for == 0


async def test_a_large_request_does_not_hold_up_small_ones() -> None:
    async with held() as (_, model, send):
        large = send(*(f"large {n}" for n in range(8)))
        small = send("small")
        model.gate.set()
        await small
        assert not large.done()
        assert (await large).tokens.tolist() == [7] * 8
    assert model.batches[1] == ["large 0", "large 1", "large 2", "small"]
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 1]


async def test_more_requests_than_fit_come_in_order() -> None:
    async with held() as (_, model, send):
        answers = [send(str(n)) for n in range(10)]
        model.gate.set()
        await asyncio.gather(*answers)
    assert model.batches[1:] == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]


async def test_one_requests_bad_text_is_not_its_neighbours_fault() -> None:
    async with held() as (_, model, send):
        good, bad, other = send("good"), send("bad"), send("other")
        model.gate.set()
        assert (await good).tokens.tolist() == [4]
        assert (await other).tokens.tolist() == [5]
        with pytest.raises(ValueError, match="bad text"):
            await bad
    assert (await asyncio.gather(good)) == [good.result()]


async def test_too_much_waiting_is_refused_with_a_time_to_come_again() -> None:
    async with held(max_waiting=3) as (_, model, send):
        waiting = send("a", "b", "c")
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as caught:
            await send("d")
        assert caught.value.problem.status == 429
        assert 1 <= (caught.value.problem.retry_after or 0) <= 60
        model.gate.set()
        await waiting


async def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async with lane(Model(), max_waiting=3) as batcher:
        assert len((await batcher.encode(["a"] * 10)).tokens) == 10


async def test_nobody_computes_for_a_caller_who_left() -> None:
    async with held() as (batcher, model, send):
        left, stays = send("left"), send("stays")
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        model.gate.set()
        await stays
    assert model.batches == [["first"], ["stays"]]


async def test_closing_cancels_what_waits() -> None:
    async with held() as (batcher, _, send):
        waiting = send("a")
        await asyncio.sleep(0)
        assert batcher.working
        await batcher.close()
        assert not batcher.working
        with pytest.raises(asyncio.CancelledError):
            await waiting
