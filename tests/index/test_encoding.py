from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.encoding import ShardEncoder
from safe_retrieval.types import FloatMatrix
from tests.support.corpora import small_corpus
from tests.support.encoders import HashEncoder


class Hungry(HashEncoder):
    """Has room for so many texts at once."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.tried: list[int] = []

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        self.tried.append(batch_size)
        if batch_size > self.room:
            raise self.error
        return super().encode_documents(texts)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory")],
)
def test_batches_become_smaller_for_good(tmp_path: Path, error: Exception) -> None:
    encoder = Hungry(10, error)
    built = build_index(small_corpus(20), encoder, tmp_path / "out", shard_size=10, batch_size=32)
    assert encoder.tried == [32, 16, 8, 8]
    assert built.count == 20


def test_one_text_that_does_not_fit_and_errors_of_another_kind() -> None:
    with pytest.raises(InputError, match="memory runs out with hash-encoder at one text"):
        ShardEncoder(Hungry(0, MemoryError()), 4).encode(["a"], start=0)
    with pytest.raises(RuntimeError, match="shapes"):
        ShardEncoder(Hungry(0, RuntimeError("shapes differ")), 4).encode(["a"], start=0)
    with pytest.raises(InputError, match="at least 1"):
        ShardEncoder(HashEncoder(), 0)
