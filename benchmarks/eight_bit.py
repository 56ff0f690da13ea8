"""8-bit integers against full precision: seconds for the same queries, and how far the answers are from each other.

    python benchmarks/eight_bit.py --backbone qwen2.5-coder-1.5b-instruct --full bfloat16

The built-in probes are asked through the shipped adapter. Both sides in one run, in alternate rounds. The result is one
JSON file; ratios hold between machines of a kind, absolute times do not.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import RESULTS, alternated, ratio_of_rounds, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.models.catalog import DEFAULT_BACKBONE
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.types import QueryEncoding

_LONGEST = 90  # characters of the queries whose passes are timed: what people type
_TOGETHER = 32


def speed(encoders: dict[str, ResponseEncoder], texts: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Median seconds of one query and of 32 together, and the median ratio of 8-bit to full, after a warm-up round."""
    short = [text for text in texts if len(text) <= _LONGEST][:_TOGETHER]
    results = []
    for count in (1, len(short)):
        sides: dict[str, Callable[[], Any]] = {
            name: partial(encoder.encode, short[:count]) for name, encoder in encoders.items()
        }
        alternated(sides, 1)
        seconds = {name: [took.clock for took in each] for name, each in alternated(sides, rounds).items()}
        results.append(
            {
                "queries": count,
                "seconds": {name: round(statistics.median(each), 4) for name, each in seconds.items()},
                "int8_over_full": ratio_of_rounds(seconds["int8"], seconds["full"]),
            }
        )
    return results


def distance(full: QueryEncoding, int8: QueryEncoding) -> dict[str, Any]:
    """Cosines between the two sides' vectors, and how their verdicts differ."""
    cosines = (full.vectors * int8.vectors).sum(axis=1)
    one, other = np.asarray(full.refusal), np.asarray(int8.refusal)  # a response encoder has verdicts
    apart = np.abs(one - other)
    verdicts = (one >= DEFAULT_THRESHOLD) == (other >= DEFAULT_THRESHOLD)
    return {
        "queries": len(cosines),
        "cosine": {"mean": round(float(cosines.mean()), 5), "least": round(float(cosines.min()), 5)},
        "refusal_apart": {"mean": round(float(apart.mean()), 5), "most": round(float(apart.max()), 5)},
        "same_side_of_the_gate": round(float(verdicts.mean()), 5),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--full", default="float32", choices=["float32", "bfloat16"], help="what to compare with")
    parser.add_argument("--queries", type=int, default=None, help="how many probes; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    texts = [probe.text for probe in load_probe_set().queries][: given.queries]
    sides = {"full": given.full, "int8": "int8"}
    encoders = {name: ResponseEncoder.load(backbone=given.backbone, dtype=dtype) for name, dtype in sides.items()}
    result = {
        "benchmark": "8-bit integers",
        "threads": torch.get_num_threads(),
        "backbone": given.backbone,
        "precision": {name: encoder.model.precision for name, encoder in encoders.items()},
        "speed": speed(encoders, texts, given.rounds),
        "distance": distance(*(encoders[name].encode(texts) for name in sides)),
    }
    write_result(given.out or RESULTS / f"eight_bit-{given.backbone}-{given.full}.json", result)


if __name__ == "__main__":
    main()
