"""Training throughput: samples a second of the joint phase, first epoch and later ones, alignment only.

Every query's prefix is computed and kept before the first epoch, and that time is the first epoch's; later epochs read
it back, so they show what keeping is worth. Queries are the built-in probe set's, targets are random unit vectors: the
time of a step depends on neither, nor, without reconstruction, on how long the responses were that the targets would
stand for.
Run ``make bench``, or ``python benchmarks/training_throughput.py --backbone smollm2-135m-instruct --quick`` for a try.
The result is one JSON file with what it was measured on; ratios hold between machines, absolute times do not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import RESULTS, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.adapter import AdapterShape, ResponseAdapter
from safe_retrieval.encoder.policy import CAREFUL
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import SMALL_BACKBONE
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.config import LossSettings, OptimiserSettings
from safe_retrieval.training.log import TrainingLog
from safe_retrieval.training.phases import PHASES, Examples, Run, joint_phase
from safe_retrieval.training.prefix_cache import PrefixCache

_DIMENSION = 384
_EPOCHS = 3
_HELD_OUT = 8


class _TimedLog(TrainingLog):
    """A log that takes the time at the end of each step, evaluations left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, None, PHASES)
        self.seconds: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Begin to time a step."""
        self._began = time.perf_counter()

    def write(self, position: Position, **values: Any) -> None:
        """Note a step's time; an evaluation only starts the clock anew."""
        if "held_out" not in values:
            self.seconds.append(time.perf_counter() - self._began)
        super().write(position, **values)
        self.restart()


def _examples(texts: list[str], targets: torch.Tensor) -> Examples:
    return Examples(texts, [[0]] * len(texts), targets, torch.zeros(len(texts), dtype=torch.bool))


def measure(model: LanguageModel, *, tokens: int, queries: int, batch_size: int, workers: int) -> dict[str, Any]:
    """Samples a second of one setting.

    Returns:
        Of the first epoch, all its samples over the time of all prefixes and of as many median steps; of the later
        ones, the median step. The first step of each kind is warm-up, and so are eight prefixes.
    """
    texts = [probe.text for probe in load_probe_set().queries if len(probe.text) <= 90][: queries + _HELD_OUT]
    if len(texts) < queries + _HELD_OUT:
        raise InputError(f"expected at most {len(texts) - _HELD_OUT} queries, got {queries}; there are no more")
    targets = torch.nn.functional.normalize(torch.randn(len(texts), _DIMENSION), dim=-1)
    shape = AdapterShape(hidden_size=model.hidden_size, dimension=_DIMENSION, compression_tokens=tokens)
    with tempfile.TemporaryDirectory() as folder:
        log = _TimedLog(Path(folder) / "log.jsonl")
        run = Run(
            model=model,
            adapter=ResponseAdapter(shape, state_scale=3.0, embedding_scale=model.embedding_scale),
            prefixes=PrefixCache(model, CAREFUL.system_prompt, Path(folder) / "prefixes"),
            training=_examples(texts[_HELD_OUT:], targets[_HELD_OUT:]),
            held_out=_examples(texts[:_HELD_OUT], targets[:_HELD_OUT]),
            loss=LossSettings(reconstruction_weight=0.0, contrast_weight=0.0),
            optimiser=OptimiserSettings(epochs=_EPOCHS, batch_size=batch_size, workers=workers, head_epochs=0),
            checkpoints=Checkpoints(Path(folder), "throughput"),
            log=log,
            seed=0,
            checkpoint_steps=10**9,
        )
        run.prefixes.fill(run.held_out.queries, workers=workers)
        began = time.perf_counter()
        run.prefixes.fill(run.training.queries, workers=workers)
        prefix_seconds = time.perf_counter() - began
        log.restart()
        joint_phase(run, 0)
    steps = queries // batch_size
    first, later = log.seconds[1:steps], log.seconds[steps + 1 :]
    first_epoch_seconds = prefix_seconds + steps * statistics.median(first)
    return {
        "compression_tokens": tokens,
        "prefixes_per_second": round(queries / prefix_seconds, 2),
        "first_epoch_samples_per_second": round(queries / first_epoch_seconds, 2),
        "later_epochs_samples_per_second": round(batch_size / statistics.median(later), 2),
        "steps_measured": [len(first), len(later)],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="Training throughput of the joint phase, alignment only.")
    parser.add_argument("--backbone", default=SMALL_BACKBONE)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="96 queries; to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_throughput.json")
    options = parser.parse_args(arguments)
    source_state()  # before hours of work, not after them
    queries = 96 if options.quick else options.queries - options.queries % options.batch_size
    torch.manual_seed(0)
    model = LanguageModel.load(options.backbone)
    rows = [
        measure(model, tokens=tokens, queries=queries, batch_size=options.batch_size, workers=options.workers)
        for tokens in (4, 6, 10)
    ]
    result = {
        "benchmark": "training throughput, joint phase, alignment only",
        "backbone": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype)},
        "queries": queries,
        "batch_size": options.batch_size,
        "workers": options.workers,
        "seed": 0,
        "settings": rows,
    }
    write_result(options.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
