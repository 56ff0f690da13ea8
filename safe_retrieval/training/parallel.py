"""Work shared out to threads: batches side by side, and the gradients of one batch.

Threads share the frozen weights, where processes would copy them. Each has one intra-op thread: two workers on two
cores beat one worker with two threads, since nobody waits at a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Report = TypeVar("Report")


def side_by_side(work: Callable[[Item], None], items: Sequence[Item], workers: int) -> None:
    """Do ``work`` for every item in ``workers`` threads, or in the calling one; the first error ends it."""
    if workers <= 1:
        for item in items:
            work(item)
        return
    # The number of intra-op threads is a property of the calling thread, so each worker sets its own.
    before = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(before)  # parts of it, such as MKL's, are the whole process's after all


class GradientWorkers:
    """A pool of ``count`` threads with one intra-op thread each; one worker computes in the calling thread.

    Forward and backward of a slice run on one thread; the slices' gradients are added in a fixed order, so the result
    does not depend on which thread is done first.

    Args:
        parameters: what gradients are taken of.
        count: number of threads.
    """

    def __init__(self, parameters: Sequence[Tensor], count: int) -> None:
        self._parameters = list(parameters)
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None
        self.count = count

    def run(
        self, loss: Callable[[Sequence[Item]], tuple[Tensor, Report]], items: Sequence[Item]
    ) -> list[tuple[int, Report]]:
        """Add the gradients of the mean loss over ``items`` to the parameters' ``grad``.

        Args:
            loss: mean loss over some items, and whatever it has to report.
            items: the batch; shared out in contiguous slices.

        Returns:
            Size and report of each slice, in order.
        """
        size = -(-len(items) // self.count)
        slices = [items[start : start + size] for start in range(0, len(items), size)]

        def work(part: Sequence[Item]) -> tuple[list[Tensor | None], Report]:
            value, report = loss(part)
            weighted = value * (len(part) / len(items))
            return list(torch.autograd.grad(weighted, self._parameters, allow_unused=True)), report

        results = list(self._pool.map(work, slices)) if self._pool else [work(part) for part in slices]
        for gradients, _ in results:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return [(len(part), report) for part, (_, report) in zip(slices, results, strict=True)]

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()
            torch.set_num_threads(self._threads)  # parts of it, such as MKL's, are the whole process's after all
