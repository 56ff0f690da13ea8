from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from safe_retrieval.training.parallel import GradientWorkers, side_by_side

ROWS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, generator=generator).requires_grad_(), torch.zeros(2).requires_grad_()]


@pytest.fixture(params=[2, 3])
def workers(request: pytest.FixtureRequest, parameters: list[Tensor]) -> Iterator[GradientWorkers]:
    pool = GradientWorkers(parameters, request.param)
    yield pool
    pool.close()


def loss_of(parameters: list[Tensor], rows: Sequence[int]) -> tuple[Tensor, list[int]]:
    return torch.tanh(ROWS[list(rows)] @ parameters[0]).square().mean(), list(rows)


def test_gradients_are_those_of_one_batch(workers: GradientWorkers, parameters: list[Tensor]) -> None:
    rows = [3, 1, 4, 5, 9, 2, 6]
    (expected,) = torch.autograd.grad(loss_of(parameters, rows)[0], parameters[:1])
    reports = workers.run(lambda part: loss_of(parameters, part), rows)
    torch.testing.assert_close(parameters[0].grad, expected)
    assert parameters[1].grad is None  # nothing depends on it
    assert [row for _, part in reports for row in part] == rows
    assert [size for size, _ in reports] == [len(part) for _, part in reports]
    assert len(reports) == workers.count


def test_gradients_add_up(workers: GradientWorkers, parameters: list[Tensor]) -> None:
    serial = GradientWorkers(parameters, 1)
    serial.run(lambda part: loss_of(parameters, part), range(4))
    assert parameters[0].grad is not None
    once = parameters[0].grad.clone()
    workers.run(lambda part: loss_of(parameters, part), range(4))
    torch.testing.assert_close(parameters[0].grad, 2 * once)
    serial.close()


def test_fewer_rows_than_threads(workers: GradientWorkers, parameters: list[Tensor]) -> None:
    assert len(workers.run(lambda part: loss_of(parameters, part), [7])) == 1


def test_the_result_does_not_depend_on_who_is_done_first(workers: GradientWorkers, parameters: list[Tensor]) -> None:
    found: list[Tensor] = []
    for _ in range(5):
        parameters[0].grad = None
        workers.run(lambda part: loss_of(parameters, part), range(10))
        assert parameters[0].grad is not None
        found.append(parameters[0].grad)
    assert all(torch.equal(found[0], other) for other in found)


def test_an_error_of_a_slice_is_raised(workers: GradientWorkers, parameters: list[Tensor]) -> None:
    def fails(part: Sequence[int]) -> tuple[Tensor, None]:
        if 5 in part:
            raise RuntimeError("row five")
        return loss_of(parameters, part)[0], None

    with pytest.raises(RuntimeError, match="row five"):
        workers.run(fails, range(10))


def test_threads_are_as_before(parameters: list[Tensor]) -> None:
    before = torch.get_num_threads()
    pool = GradientWorkers(parameters, 2)
    pool.run(lambda part: loss_of(parameters, part), range(10))
    pool.close()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [1, 3])
def test_every_item_is_worked_on_and_the_number_of_threads_is_as_before(count: int) -> None:
    before, done = torch.get_num_threads(), []
    side_by_side(done.append, range(10), count)
    assert sorted(done) == list(range(10))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_error_ends_it(count: int) -> None:
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        side_by_side(work, range(1000), count)
    assert len(done) < 999
