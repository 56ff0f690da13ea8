"""One query searched by several threads.

FAISS shares out queries, so it searches a single one with one thread. It can share out the clusters of an inverted file
as well, but its OpenMP threads fall asleep after some milliseconds without work, and the thread that wakes them waits
by turning in circles, where it may keep off the processor those that it waits for: two cores of a virtual machine took
12 ms over a query after a pause of 50 ms, which one thread answers in 4. Python's threads wait by sleeping.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_retrieval.types import FloatMatrix

# Vectors from which handing shares of one query to threads is worth it: 8 MB, about half a millisecond of one core.
_WORTH_BYTES = 1 << 23

Share: TypeAlias = Callable[[int], tuple[FloatMatrix, NDArray[np.int64]]]
"""The number of a share, to what FAISS found in it for one query: (1, c) float32 scores and (1, c) int64 labels."""


def threads_for(size: int) -> int:
    """How many threads are worth it for one query that looks at so many bytes of vectors."""
    faiss: Any = importlib.import_module("faiss")
    return int(faiss.omp_get_max_threads()) if size >= _WORTH_BYTES else 1


@contextmanager
def without_helpers() -> Iterator[None]:
    """Let FAISS search with the calling thread alone, for one query: helpers would find nothing to do but spin."""
    faiss: Any = importlib.import_module("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of the calling thread, not of others
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def best_of_shares(share: Share, threads: int, count: int) -> tuple[FloatMatrix, NDArray[np.int64]]:
    """The best of what as many shares as threads find, of which the calling thread is one.

    Returns (1, min(c, count)) scores, falling, and their labels; equal scores stand in the order of the shares.
    """
    waiting: list[Future[tuple[FloatMatrix, NDArray[np.int64]]]] = []
    with suppress(RuntimeError):  # the main thread has ended, and Python takes no more work for pools
        waiting += [_helpers(threads - 1).submit(share, number) for number in range(1, threads)]
    # The calling thread takes part: one that slept meanwhile would leave its processor to a helper that was put to
    # another one, and the system is slow to move it.
    with without_helpers():
        parts = [share(0)]
        parts += [waiting[number - 1].result() if waiting else share(number) for number in range(1, threads)]
    scores, labels = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    order = np.argsort(-scores[0], kind="stable")[:count]
    return scores[:, order], labels[:, order]


@cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    """Threads without OpenMP helpers of their own, which would spin against the others."""
    faiss: Any = importlib.import_module("faiss")
    return ThreadPoolExecutor(threads, "search", initializer=faiss.omp_set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
