"""What a build by Ray does around Ray, which a loop stands in for here; the real one is in tests/real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.errors import IndexLockedError
from safe_retrieval.index import distributed
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.distributed import usual_shards
from safe_retrieval.index.steps import embed_shard, plan_build, train_index
from safe_retrieval.types import FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder
from tests.support.without_ray import replace_ray


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_ray(monkeypatch)


@pytest.mark.usefixtures("without_ray")
def test_a_driver_that_died_after_training_is_started_again(tmp_path: Path) -> None:
    documents, out = small_corpus(160), tmp_path / "out"
    plan_build(documents, HashEncoder(), out, shards=2, factory="IVF4,Flat")
    for number in range(2):
        embed_shard(out, number, HashEncoder())
    assert train_index(out)
    built = distributed.build_with_ray(documents, HashEncoder, out, shards=2, factory="IVF4,Flat")
    whole = build_index(documents, HashEncoder(), tmp_path / "whole", factory="IVF4,Flat")
    assert [record.sha256 for record in built.files()] == [record.sha256 for record in whole.files()]


@pytest.mark.usefixtures("without_ray")
def test_a_second_build_is_refused_while_workers_encode(tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Intruder(HashEncoder):
        def encode_documents(self, texts: Any, **named: Any) -> FloatMatrix:
            with pytest.raises(IndexLockedError, match="another process"):
                distributed.build_with_ray(small_corpus(9), HashEncoder, out)
            return super().encode_documents(texts, **named)

    assert distributed.build_with_ray(small_corpus(9), Intruder, out).build.shards == 8


@pytest.mark.parametrize(
    ("count", "workers", "shards"), [(3, 2, 3), (1_000, 2, 8), (10**6, 2, 16), (10**6, 8, 32), (10**9, 64, 15_259)]
)
def test_the_usual_number_of_shards(count: int, workers: int, shards: int) -> None:
    assert usual_shards(count, workers=workers) == shards
