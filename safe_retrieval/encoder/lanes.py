"""Batches side by side on a CPU: as many lanes as PyTorch would use threads, each with one thread of its own.

Two threads inside one forward pass wait for each other at every layer. Two passes with a thread each do not, and as
long as there is more than one batch they get more done (``benchmarks/lanes.py``). A text alone still gets all threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_TEXTS = 4  # in a part of a batch that is split
_AHEAD = 2  # batches that wait for each lane, so that it need not wait for the next one


def lane_count(device: str) -> int:
    """How many lanes there are for a model on a device: 1 stands for no lanes at all."""
    import torch

    return torch.get_num_threads() if device == "cpu" else 1


def shared_out(batches: Sequence[NDArray[np.int64]], lanes: int) -> list[NDArray[np.int64]]:
    """The same batches, each (b,) positions, split where there are fewer of them than lanes."""
    if not batches or len(batches) >= lanes:
        return list(batches)
    parts = -(-lanes // len(batches))
    split: list[NDArray[np.int64]] = []
    for batch in batches:
        size = max(_LEAST_TEXTS, -(-len(batch) // parts))
        split += [batch[start : start + size] for start in range(0, len(batch), size)]
    return split


def in_lanes(work: Callable[[Item], Result], items: Sequence[Item], lanes: int) -> Iterator[tuple[Item, Result]]:
    """Each item with what ``work`` makes of it, in order; a few items are worked on ahead.

    The first exception ends it, as it would end a loop; items that were not begun are left out.
    """
    if lanes < 2 or len(items) < 2:
        yield from ((item, work(item)) for item in items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = _pool(lanes)
    rest = iter(items)
    try:
        for item in rest:
            try:
                waiting.append((item, pool.submit(work, item)))
            except RuntimeError:  # the main thread has ended, and Python takes no more work for pools
                yield from ((done, future.result()) for done, future in waiting)
                waiting.clear()
                yield item, work(item)
                yield from ((other, work(other)) for other in rest)
                return
            if len(waiting) > _AHEAD * lanes:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


@cache
def _pool(lanes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(lanes, "lane", initializer=_one_thread)


def _one_thread() -> None:
    """Bound OpenMP to one thread, in the calling thread alone; ``torch.set_num_threads`` would bound MKL everywhere."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # PyTorch sets a new thread's number when it is first asked, over what was set before
    limits: Any = threadpool_limits
    limits(limits=1, user_api="openmp")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
