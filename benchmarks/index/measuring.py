"""What the index benchmarks share: random unit vectors, processes of their own, memory."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from safe_retrieval.errors import InputError
from safe_retrieval.types import FloatMatrix

RESULTS = measuring.RESULTS / "index"
_BLOCK = 10_000
_SAMPLING_SECONDS = 0.01


def random_blocks(count: int, dimension: int, *, seed: int = 0) -> Iterator[FloatMatrix]:
    """Unit vectors around a thousand directions, as texts lie around topics; (n, dimension) float32 each.

    Block by block the same for the same seed, so that two processes have the same data and neither has to hold it.
    """
    topics = np.random.default_rng(seed).standard_normal((1_000, dimension), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        rng = np.random.default_rng((seed, start))
        rows = min(_BLOCK, count - start)
        block = topics[rng.integers(0, len(topics), rows)] + rng.standard_normal((rows, dimension), dtype=np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run work in a process of its own, so that its memory can be told from ours.

    Raises:
        InputError: the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, work, arguments))
    process.start()
    sending.close()
    try:
        result: dict[str, Any] = receiving.recv()
    except EOFError as error:
        raise InputError(f"{work.__name__} ended without a result; run it alone to see why") from error
    finally:
        process.join()
    return result


def _answer(sending: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    sending.send(work(*arguments))


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own (``anonymous``) and pages of files (``file``). Linux alone."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: 1_024 * int(fields[key].split()[0]) for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"))}


@contextmanager
def watched_memory() -> Iterator[dict[str, int]]:
    """The most memory of its own that this process has above what it had before, as ``peak`` in what is yielded."""
    before, found, done = resident()["anonymous"], {"peak": 0, "before": 0}, threading.Event()
    found["before"] = before

    def watch() -> None:
        while not done.wait(_SAMPLING_SECONDS):
            found["peak"] = max(found["peak"], resident()["anonymous"] - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found["peak"] = max(found["peak"], resident()["anonymous"] - before)
        done.set()
        thread.join()
