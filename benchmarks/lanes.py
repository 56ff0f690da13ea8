"""Batches in lanes of one thread each against one batch at a time with all threads: documents and queries.

    python benchmarks/lanes.py --backbone qwen2.5-coder-1.5b-instruct

Passages and queries are those of the built-in probe set. Both sides in one run, in alternate rounds. The result is one
JSON file; ratios hold between machines of a kind, absolute times do not.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.measuring import RESULTS, alternated, ratio_of_rounds, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.encoder import input as input_encoder
from safe_retrieval.encoder import response as response_encoder
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.models.catalog import SMALL_BACKBONE


@contextmanager
def without_lanes() -> Iterator[None]:
    """One batch at a time."""
    with patch.object(input_encoder, "lane_count", _one), patch.object(response_encoder, "lane_count", _one):
        yield


def _one(_: str) -> int:
    return 1


def compared(work: Callable[[], Any], texts: int, rounds: int) -> dict[str, Any]:
    """Texts a second of each side, after one round of warm-up, and the median ratio of the times."""

    def alone() -> None:
        with without_lanes():
            work()

    sides = {"lanes": work, "one_at_a_time": alone}
    alternated(sides, 1)
    seconds = {name: [took.clock for took in each] for name, each in alternated(sides, rounds).items()}
    return {
        "texts": texts,
        "texts_a_second": {name: round(texts / statistics.median(each), 2) for name, each in seconds.items()},
        "lanes_over_one_at_a_time": ratio_of_rounds(seconds["lanes"], seconds["one_at_a_time"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=SMALL_BACKBONE)
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "lanes.json")
    given = parser.parse_args(arguments)
    probes = load_probe_set()
    passages = [document.content for document in probes.documents][: given.documents]
    queries = [probe.text for probe in probes.queries][: given.queries]
    teacher = InputEncoder.load()
    response = ResponseEncoder.load(backbone=given.backbone)
    result = {
        "benchmark": "encoding in lanes",
        "threads": torch.get_num_threads(),
        "batch_size": 32,
        "documents": {
            "encoder": teacher.name,
            **compared(lambda: teacher.encode_documents(passages, progress=False), len(passages), given.rounds),
        },
        "queries": {
            "encoder": response.name,
            **compared(lambda: response.encode(queries, progress=False), len(queries), given.rounds),
        },
        "one_batch_of_32_queries": {
            "encoder": response.name,
            **compared(lambda: response.encode(queries[:32], progress=False), len(queries[:32]), given.rounds),
        },
    }
    write_result(given.out, result)


if __name__ == "__main__":
    main()
