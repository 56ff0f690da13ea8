"""Building from texts: ``build_index`` against bare ``SentenceTransformer.encode`` and ``faiss.add``, in turns.

    python benchmarks/index/build.py --documents 20000 --lots 8

Both sides encode the same documents in batches of the same size with the same model; ours also reads, stores, checks,
hashes and can be stopped. Texts are the built-in probe set's passages, put together to documents of many lengths. They
are built lot by lot, each by both sides one after the other: on a machine whose speed changes within minutes, whole
builds side by side would measure the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.index.measuring import RESULTS
from benchmarks.measuring import alternated, ratio_of_rounds, write_result
from safe_retrieval.audit.probes import load_probe_set
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.index.builder import build_index
from safe_retrieval.types import Document


def documents(count: int, *, seed: int = 0) -> list[Document]:
    """Distinct documents of 20 to 120 words, out of harmless passages of the built-in probe set."""
    words = [word for passage in load_probe_set().documents for word in passage.text.split()]
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        start, length = rng.integers(len(words) - 120), rng.integers(20, 121)
        made.append(Document(f"d{number}", " ".join(words[start : start + length])))
    return made


def measure(encoder: InputEncoder, count: int, *, lots: int, batch_size: int) -> dict[str, Any]:
    """Seconds of both sides for each lot, and their ratio over all of them."""
    made = documents(count)
    corpora = [made[number * count // lots : (number + 1) * count // lots] for number in range(lots)]
    (model,) = encoder.torch_modules

    def bare(corpus: list[Document]) -> None:
        vectors = model.encode(  # type: ignore[operator]
            [document.content for document in corpus],
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        index: Any = faiss.IndexFlatIP(encoder.dimension)
        index.add(vectors)

    def ours(corpus: list[Document]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_index(corpus, encoder, Path(folder) / "index", batch_size=batch_size, progress=False)

    encoder.encode_documents([document.content for document in made[:batch_size]])  # warm-up
    waiting = {"bare": iter(corpora), "ours": iter(corpora)}
    sides = {"bare": lambda: bare(next(waiting["bare"])), "ours": lambda: ours(next(waiting["ours"]))}
    seconds = alternated(sides, lots)
    clock, processor = (
        {name: [round(one[kind], 3) for one in taken] for name, taken in seconds.items()} for kind in (0, 1)
    )
    return {
        "documents": count,
        "batch_size": batch_size,
        "seconds": clock,
        "processor_seconds": processor,
        "documents_per_second": round(count / sum(clock["ours"]), 1),
        "ratio": round(sum(clock["ours"]) / sum(clock["bare"]), 4),
        "median_ratio_of_lots": ratio_of_rounds(clock["ours"], clock["bare"]),
        "ratio_of_processor_time": round(sum(processor["ours"]) / sum(processor["bare"]), 4),
        "goal": 1.05,
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description="Building an index from texts against bare encode and add.")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--lots", type=int, default=8, help="an even number lets each side go first as often")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS / "build.json")
    options = parser.parse_args(arguments)
    source_state()
    encoder = InputEncoder.load()
    result = measure(encoder, options.documents, lots=options.lots, batch_size=options.batch_size)
    write_result(options.out, {"benchmark": "index build from texts", "encoder": encoder.name, **result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
