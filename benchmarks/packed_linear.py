"""Packed against plain weights: one product, and one forward pass of a backbone over one query and over 32.

    python benchmarks/packed_linear.py --backbone qwen2.5-coder-1.5b-instruct

Both sides in one run, in alternate rounds. The result is one JSON file; ratios hold between machines of a kind,
absolute times do not.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import RESULTS, alternated, ratio_of_rounds, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.backbone.packed_linear import PackedLinear
from safe_retrieval.encoder.policy import CAREFUL
from safe_retrieval.models.catalog import SMALL_BACKBONE

_ROWS = (1, 4, 16, 64, 128, 640)
_OPERATIONS = 2e10  # of one round of products, so that no round is over in a moment


def compared(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Median seconds of each side, after one round of warm-up, and the median ratio of packed to plain."""
    alternated(sides, 1)
    seconds = {name: [took.clock for took in each] for name, each in alternated(sides, rounds).items()}
    return {
        "seconds": {name: round(statistics.median(each), 5) for name, each in seconds.items()},
        "packed_over_plain": ratio_of_rounds(seconds["packed"], seconds["plain"]),
    }


def products(width: int, out: int, rounds: int) -> list[dict[str, Any]]:
    """The product of (m, width) and (width, out), for several m."""
    plain = nn.Linear(width, out, bias=False).requires_grad_(False)
    packed = PackedLinear(plain)
    results = []
    for rows in _ROWS:
        given = torch.randn(rows, width)
        operations = 2 * rows * width * out
        times = max(1, round(_OPERATIONS / operations))

        def repeat(layer: nn.Module, given: torch.Tensor = given, times: int = times) -> None:
            for _ in range(times):
                layer(given)

        found = compared({"plain": lambda: repeat(plain), "packed": lambda: repeat(packed)}, rounds)
        speed = {name: round(operations * times / each / 1e9, 1) for name, each in found["seconds"].items()}
        results.append({"rows": rows, "gflops_a_second": speed, "packed_over_plain": found["packed_over_plain"]})
    return results


def passes(backbone: str, rounds: int) -> list[dict[str, Any]]:
    """One forward pass over one query and over 32, by the same backbone, plain and packed."""
    models = {name: LanguageModel.load(backbone, packed=name == "packed") for name in ("plain", "packed")}
    texts = [probe.text for probe in load_probe_set().queries if len(probe.text) <= 90][:32]
    results = []
    for count in (1, len(texts)):

        def forward(model: LanguageModel, texts: list[str] = texts[:count]) -> None:
            model.prefix_pass(model.token_ids(texts, CAREFUL.system_prompt), CAREFUL.system_prompt)

        found = compared({name: partial(forward, model) for name, model in models.items()}, rounds)
        results.append({"queries": count, **found})
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=SMALL_BACKBONE)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--width-out", type=int, default=8960)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "packed_linear.json")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    with torch.inference_mode():
        result = {
            "benchmark": "packed linear layers",
            "threads": torch.get_num_threads(),
            "seed": 0,
            "product": [given.width, given.width_out],
            "products": products(given.width, given.width_out, given.rounds),
            "backbone": given.backbone,
            "passes": passes(given.backbone, given.rounds),
        }
    write_result(given.out, result)


if __name__ == "__main__":
    main()
