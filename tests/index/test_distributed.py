"""What a build by Ray does around Ray, which a loop stands in for here; the real one is in tests/real."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.index import distributed
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.steps import embed_shard, plan_build, train_index
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder


def test_a_driver_that_died_after_training_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(_ray: Any, work: Any, _plan: Any, shards: Iterable[int], *, show: bool | None) -> None:
        worker = work.worker(*work.arguments)
        for number in shards:
            worker({"item": number})

    monkeypatch.setattr(distributed, "require", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "_each", one_by_one)
    monkeypatch.setattr(distributed, "_running", lambda *_: nullcontext())
    monkeypatch.setattr(distributed, "_quiet", lambda *_: nullcontext())
    documents, out = small_corpus(160), tmp_path / "out"
    plan_build(documents, HashEncoder(), out, shards=2, factory="IVF4,Flat")
    for number in range(2):
        embed_shard(out, number, HashEncoder())
    assert train_index(out)
    built = distributed.build_with_ray(documents, HashEncoder, out, shards=2, factory="IVF4,Flat")
    whole = build_index(documents, HashEncoder(), tmp_path / "whole", factory="IVF4,Flat")
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]
