"""From ready-made vectors: time against bare FAISS, peak memory within a bound, opening, and how all of it grows.

    python benchmarks/index/vectors.py --sizes 10000 100000 1000000
    python benchmarks/index/vectors.py --lists 256 --out benchmarks/results/index/growth.json    # one kind at all sizes

Random unit vectors go into an inverted file: ours from a stream, once as fast as can be and once within ``--memory``,
bare FAISS's from an array that holds all of them. Each runs in a process of its own, several times, in turns; memory is
what it takes above what libraries took.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np

from benchmarks.index.measuring import RESULTS, in_a_process, random_blocks, resident, watched_memory
from benchmarks.measuring import Seconds, ratio_of_rounds, timed, write_result
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.index.assemble import assemble_index
from safe_retrieval.index.factories import parse_factory
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.manifest import EncoderRecord
from safe_retrieval.index.segments import Block
from safe_retrieval.index.vector_files import write_vectors
from safe_retrieval.types import Document


def ours(count: int, dimension: int, factory: str, memory: int | None, folder: str) -> dict[str, Any]:
    """Write the FAISS file of a stream of vectors, kept on the disk as a build keeps them."""
    rows = Path(folder) / "rows.f32"
    with rows.open("wb") as file:
        for block in random_blocks(count, dimension):
            block.tofile(file)

    def blocks() -> Any:
        with rows.open("rb") as file:
            while len(block := np.fromfile(file, np.float32, 8_192 * dimension)):
                yield block.reshape(-1, dimension)

    with watched_memory() as found:
        kind = parse_factory(factory)
        took = timed(lambda: write_vectors(Path(folder), kind, dimension, count, blocks, memory=memory))
    return _figures(took, found)


def bare(count: int, dimension: int, factory: str, folder: str) -> dict[str, Any]:
    """Train, add and write with FAISS alone."""
    with watched_memory() as found:
        vectors = np.concatenate(list(random_blocks(count, dimension)))

        def build() -> None:
            index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.add(vectors)
            faiss.write_index(index, str(Path(folder) / "bare.faiss"))

        took = timed(build)
    return _figures(took, found)


def _figures(took: Seconds, memory: dict[str, int]) -> dict[str, Any]:
    return {
        "seconds": round(took.clock, 3),
        "processor_seconds": round(took.processor, 3),
        "peak_bytes": memory["peak"],
        "threads": faiss.omp_get_max_threads(),
    }


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of times, and the most memory."""
    times = {name: statistics.median(each[name] for each in rounds) for name in ("seconds", "processor_seconds")}
    return {**rounds[0], **times, "peak_bytes": max(each["peak_bytes"] for each in rounds)}


def _ratio(mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], name: str) -> float:
    return ratio_of_rounds([each[name] for each in mine], [each[name] for each in theirs])


def opened(folder: str, verify: bool) -> dict[str, Any]:
    """Open a folder memory-mapped, and search it once; its files were just written, so they need not be fetched."""
    before = resident()
    began = time.perf_counter()
    with load_index(folder, verify=verify) as index:
        seconds = time.perf_counter() - began
        after = resident()
        query = next(random_blocks(1, index.dimension, seed=1))
        index.search(query, 10)
        searched = time.perf_counter() - began
        size = index.manifest.segments[0].vectors.size
    grown = sum(after.values()) - sum(before.values())
    return {
        "seconds": round(seconds, 4),
        "seconds_with_first_search": round(searched, 4),
        "resident_bytes": grown,
        "file_bytes": size,
        "resident_share_of_file": round(grown / size, 4),
    }


def measure(count: int, dimension: int, *, factory: str, memory: int, rounds: int) -> dict[str, Any]:
    """All figures of one size; both sides several times, which take turns to go first."""
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for number in range(rounds):
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            with TemporaryDirectory() as folder:
                if is_ours:
                    mine.append(in_a_process(ours, count, dimension, factory, None, folder))
                else:
                    theirs.append(in_a_process(bare, count, dimension, factory, folder))
    with TemporaryDirectory() as folder:
        bounded = in_a_process(ours, count, dimension, factory, memory, folder)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "index"
        numbers = iter(range(count))
        blocks = (
            Block([Document(f"d{next(numbers)}", "text") for _ in range(len(block))], block)
            for block in random_blocks(count, dimension)
        )
        began = time.perf_counter()
        assemble_index(blocks, EncoderRecord("random", "random"), dimension, out, factory="Flat")
        flat = time.perf_counter() - began
        opening = in_a_process(opened, str(out), False)
        verified = in_a_process(opened, str(out), True)
    return {
        "vectors": count,
        "rounds": rounds,
        "ours": _median(mine),
        "ours_bounded": bounded,
        "faiss": _median(theirs),
        "time_over_faiss": _ratio(mine, theirs, "seconds"),
        "processor_time_over_faiss": _ratio(mine, theirs, "processor_seconds"),
        "memory_bound": memory,
        "within_bound": bounded["peak_bytes"] <= memory,
        "flat_index_with_documents_seconds": round(flat, 3),
        "opening": opening,
        "verified_opening": verified,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="Ready-made vectors into an index: time, memory, opening, growth.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--lists", type=int, default=1_024, help="clusters; fewer where there are too few vectors")
    parser.add_argument("--memory", type=float, default=1.0, help="bound in GB")
    parser.add_argument("--rounds", type=int, default=3, help="how often both sides run; medians count")
    parser.add_argument("--out", type=Path, default=RESULTS / "vectors.json")
    options = parser.parse_args(arguments)
    source_state()
    result: dict[str, Any] = {"benchmark": "ready-made vectors", "dimension": options.dimension, "sizes": []}
    for size in options.sizes:
        lists = min(options.lists, 2 ** (max(size // 39, 1).bit_length() - 1))
        factory = f"IVF{lists},Flat"
        figures = measure(
            size, options.dimension, factory=factory, memory=int(options.memory * 1e9), rounds=options.rounds
        )
        result["sizes"].append({"factory": factory, **figures})
        write_result(options.out, result)  # after each size: the largest may take an hour
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
