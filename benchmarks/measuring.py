"""What the benchmarks share: seconds on the clock and of the processor, alternate rounds, the result file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval.audit.provenance import provenance

RESULTS = Path(__file__).parent / "results"


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


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result with where it comes from, and print where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "provenance": provenance({})}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(path)
