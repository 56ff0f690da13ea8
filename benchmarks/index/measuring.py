"""What the index benchmarks share: random unit vectors, medians of alternate rounds, peak memory, the result file."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from safe_retrieval.audit.provenance import provenance
from safe_retrieval.errors import InputError
from safe_retrieval.types import FloatMatrix

RESULTS = Path(__file__).parent.parent / "results" / "index"
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


class Seconds(NamedTuple):
    """What work took: on the clock, and of processor time, which other work on the machine hardly changes."""

    clock: float
    processor: float


def timed(work: Callable[[], Any]) -> Seconds:
    """Do some work, and say how long it took."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - began, time.process_time() - used)


def alternated(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each side in each round; they take turns to go first."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(timed(sides[name]))
    return seconds


def ratio_of_rounds(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of ours divided by theirs."""
    return round(statistics.median(one / two for one, two in zip(ours, theirs, strict=True)), 4)


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


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result with where it comes from, and print where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "provenance": provenance({})}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(path)
