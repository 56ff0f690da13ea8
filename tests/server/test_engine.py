from __future__ import annotations

import asyncio

import pytest

from safe_retrieval.index.searchable import SearchableIndex
from safe_retrieval.server.engine import Engine
from safe_retrieval.server.problems import BusyError
from safe_retrieval.server.settings import ServerSettings
from safe_retrieval.types import GateAction
from tests.server.support import HeldEncoder, QueryEncoder, served_by


async def test_a_search_that_one_lane_sends_away_costs_no_pass_of_the_other(index: SearchableIndex) -> None:
    encoder, judge = QueryEncoder(verdict=False), HeldEncoder()
    served = served_by(encoder, index=index, judge=judge)
    engine = Engine(served, ServerSettings(max_batch=1, max_waiting=1), lambda _: None)
    await engine.start()
    try:
        assert (len(encoder.batches), len(judge.batches)) == (1, 1)  # nobody waits for what is set up on first use
        judge.gate.clear()
        first = asyncio.ensure_future(engine.judge(["a"]))
        await asyncio.to_thread(judge.wait_for_pass, 2)
        second = asyncio.ensure_future(engine.judge(["b"]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await engine.search(["c"], k=1, action=GateAction.FLAG)
        judge.gate.set()
        await asyncio.gather(first, second)
        await engine.encode_queries(["d"])
        assert len(encoder.batches) == 2
    finally:
        judge.gate.set()
        await engine.close()
