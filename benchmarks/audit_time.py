"""A whole audit of the input-centric arm against bare encoding and searching of the same passages and queries.

    python benchmarks/audit_time.py --data DIR

The audit also reads and checks its probes, keeps what it encodes, computes figures, intervals and tests, and writes the
report's files. Bare is ``SentenceTransformer.encode`` of all passages and all queries, ``faiss.IndexFlatIP`` and one
search for the hundred nearest. Both sides have their model loaded and nothing cached; they take turns to go first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import torch

from benchmarks.measuring import RESULTS, alternated, ratio_of_rounds, write_result
from safe_retrieval.audit.arms import audit_arms
from safe_retrieval.audit.models import LocalModels
from safe_retrieval.audit.probes import ProbeSet, load_data_folder, load_probe_set
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.audit.targets import AuditArm
from safe_retrieval.encoder.input import InputEncoder

GOAL = 2.0
K = 100


def measure(load: Callable[[], ProbeSet], *, rounds: int, batch_size: int = 32) -> dict[str, Any]:
    """Seconds of both sides in each round, and their ratio.

    Args:
        load: reads the probe set; the audit's side pays for it.
        rounds: how often each side runs.
        batch_size: of the bare side, sentence-transformers' own default.
    """
    models = LocalModels()
    encoder = models.document.encoder  # opened now, before the clock runs
    (model,) = InputEncoder.load().torch_modules
    probe_set = load()
    passages = [document.content for document in probe_set.documents]
    queries = [probe.text for probe in probe_set.queries]

    def encode(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)  # type: ignore[operator]

    def bare() -> None:
        index: Any = faiss.IndexFlatIP(encoder.dimension)
        index.add(encode(passages))
        index.search(encode(queries), K)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            audit_arms(load(), [AuditArm.INPUT], out=Path(folder) / "report", models=models)

    encode(passages[:batch_size])  # warm-up
    seconds = alternated({"bare": bare, "ours": ours}, rounds)
    clock = {name: [round(one.clock, 3) for one in taken] for name, taken in seconds.items()}
    return {
        "probes": probe_set.name,
        "queries": len(queries),
        "passages": len(passages),
        "seconds": clock,
        "ratio": ratio_of_rounds(clock["ours"], clock["bare"]),
        "goal": GOAL,
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="A whole audit against bare encoding and searching.")
    parser.add_argument("--data", type=Path, help="a data folder (docs/data.md); without it the built-in probes")
    parser.add_argument("--harm", nargs="+", default=["advbench-ir"], help="folders in harm/")
    parser.add_argument("--benign", nargs="+", default=["nq-wiki"], help="folders in benign/")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "audit_time.json")
    options = parser.parse_args(arguments)
    source_state()

    def load() -> ProbeSet:
        return load_data_folder(options.data, options.harm, options.benign) if options.data else load_probe_set()

    write_result(options.out, {"benchmark": "time of a whole audit, input arm", **measure(load, rounds=options.rounds)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
