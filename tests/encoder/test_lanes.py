from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from safe_retrieval.encoder import lanes
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.lanes import in_lanes, lane_count, shared_out
from safe_retrieval.encoder.twins import Twins
from tests.encoder.test_input import WORDS, save_tiny_model

TEXTS = [" ".join(WORDS[13:][start % 30 :: 1 + start % 7][:12]) for start in range(70)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> InputEncoder:
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    return InputEncoder(folder, name="tiny", fingerprint="sha256:tiny", device="cpu")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("items", [0, 1, 2, 40])
def test_results_come_in_order(count: int, items: int) -> None:
    found = list(in_lanes(lambda number: number * 2, range(items), count))
    assert found == [(number, number * 2) for number in range(items)]


def test_a_lane_has_one_thread_and_the_caller_keeps_its_own(two_threads: None) -> None:
    barrier = threading.Barrier(2, timeout=60)

    def threads(_: int) -> int:
        barrier.wait()  # so that both lanes are asked
        return torch.get_num_threads()

    assert [found for _, found in in_lanes(threads, [1, 2], 2)] == [1, 1]
    assert torch.get_num_threads() == 2


def test_the_first_error_ends_it() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    found = []
    with pytest.raises(ValueError, match="three"):
        found.extend(item for item, _ in in_lanes(work, range(100), 2))
    assert found == [0, 1, 2]
    assert len(begun) < 20


def test_without_a_pool_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPoolExecutor(2)
    pool.shutdown()
    monkeypatch.setattr(lanes, "_pool", lambda count: pool)
    assert [found for _, found in in_lanes(lambda number: -number, range(5), 2)] == [0, -1, -2, -3, -4]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [([], 2, []), ([9, 3], 2, [9, 3]), ([32], 2, [16, 16]), ([5], 2, [4, 1]), ([3], 2, [3]), ([1], 4, [1])],
)
def test_batches_are_split_where_there_are_too_few(sizes: list[int], count: int, expected: list[int]) -> None:
    batches = [np.arange(size) for size in sizes]
    split = shared_out(batches, count)
    assert [len(batch) for batch in split] == expected
    assert [n for batch in split for n in batch] == [n for batch in batches for n in batch]


def test_lanes_are_for_the_cpu(two_threads: None) -> None:
    assert (lane_count("cpu"), lane_count("cuda")) == (2, 1)


def test_vectors_do_not_depend_on_lanes(encoder: InputEncoder, two_threads: None) -> None:
    beside = encoder.encode_documents(TEXTS, batch_size=8)
    torch.set_num_threads(1)
    np.testing.assert_allclose(beside, encoder.encode_documents(TEXTS, batch_size=8), atol=1e-6)


def test_many_threads_may_ask_at_once(encoder: InputEncoder, two_threads: None) -> None:
    expected = encoder.encode_documents(TEXTS)
    sizes = range(1, 41)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda size: encoder.encode_documents(TEXTS, batch_size=size), sizes))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (len(sizes), *expected.shape)), atol=1e-6)


def test_twins_share_weights_and_nothing_else(encoder: InputEncoder) -> None:
    twins = Twins(encoder._model)
    twins.provide(2)
    twins.provide(2)
    with twins.lent() as one, twins.lent() as other:
        assert {id(own) for own in one.parameters()} == {id(own) for own in other.parameters()}
        assert one.tokenizer is not other.tokenizer
        assert one.tokenizer.split_special_tokens == other.tokenizer.split_special_tokens
    again = pickle.loads(pickle.dumps(twins))  # noqa: S301 (made here)
    with again.lent() as model:
        assert model.encode(["violin"]).shape == (1, encoder.dimension)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_lanes_of_its_own() -> None:
    assert list(in_lanes(lambda number: number, [1, 2], 2))
    assert lanes._pool.cache_info().currsize
    child = os.fork()
    if child == 0:
        os._exit(lanes._pool.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_encoder_that_a_host_pickles(encoder: InputEncoder) -> None:
    again = pickle.loads(pickle.dumps(encoder))  # noqa: S301 (made here)
    np.testing.assert_allclose(again.encode_queries(TEXTS[:3]), encoder.encode_queries(TEXTS[:3]), atol=1e-6)
