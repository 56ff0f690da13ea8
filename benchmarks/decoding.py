"""What an embedding can be read back as: the decoded text against the backbone's own response.

    python benchmarks/decoding.py benchmarks/adapters/qwen2.5-coder-0.5b-instruct-tokens.yaml

Held-out queries of a finished run: each is embedded, the embedding is decoded, and the text is compared with the
response that the backbone gave when it was asked. Do both refuse, or neither? As most responses answer, always
answering would be right most of the time, so the share among the refusals stands beside it. And how near are they to
each other for the teacher, against responses that were shuffled, that is to other queries? No text is written down.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import RESULTS, write_result
from safe_retrieval.audit.figures import estimate_json
from safe_retrieval.audit.provenance import source_state
from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.encoder.verdict import is_refusal
from safe_retrieval.errors import InputError
from safe_retrieval.metrics import bootstrap_mean, wilson
from safe_retrieval.training import trainer
from safe_retrieval.training.config import load_config
from safe_retrieval.types import FloatMatrix


def agreement(decoded: NDArray[np.bool_], own: NDArray[np.bool_]) -> dict[str, Any]:
    """How often the decoded text has the verdict of the response, (n,) each; true is a refusal."""
    same = decoded == own
    return {
        "same_verdict": estimate_json(wilson(int(same.sum()), len(same))),
        "of_refusals": estimate_json(wilson(int(same[own].sum()), int(own.sum()))) if own.any() else None,
        "always_answering": round(float((~own).mean()), 4),
    }


def nearness(decoded: FloatMatrix, own: FloatMatrix, *, seed: int) -> dict[str, Any]:
    """Cosines of decoded texts and responses, (n, D) unit norm each, their own and shuffled ones.

    Raises:
        InputError: there are fewer than two.
    """
    if len(own) < 2:
        raise InputError(f"expected at least two texts to shuffle, got {len(own)}")
    order = np.random.default_rng(seed).permutation(len(own))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # nobody keeps the own
    paired, shuffled = (decoded * own).sum(1), (decoded * own[other]).sum(1)
    return {
        "cosine": estimate_json(bootstrap_mean(paired, seed=seed)),
        "shuffled_cosine": estimate_json(bootstrap_mean(shuffled, seed=seed)),
        "difference": estimate_json(bootstrap_mean(paired - shuffled, seed=seed)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration of a finished run")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    parser.add_argument("--offline", action="store_true", help="open no connection")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    source_state()  # before minutes of work, not after them
    config = load_config(options.config)
    loaded = load_adapter(config.out / "adapter")
    prepared = trainer.prepare(config, offline=options.offline, answered_only=True)
    rows = prepared.held_out[: options.queries]
    encoder = ResponseEncoder(prepared.model, loaded)
    texts = encoder.decode([row.query for row in rows], max_new_tokens=config.responses.max_new_tokens)
    refused = np.array([is_refusal(text) for text in texts])
    targets = [prepared.teacher.targets(side) for side in (texts, [row.response for row in rows])]
    result = {
        "benchmark": "decoded embeddings against the backbone's own responses",
        "adapter": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "training": {name: loaded.record.training.get(name) for name in ("queries", "responses_sha256", "settings")},
        "queries": len(rows),
        "max_new_tokens": config.responses.max_new_tokens,
        "seed": options.seed,
        "empty": sum(not text for text in texts),
        **agreement(refused, np.array([row.refused for row in rows])),
        **nearness(targets[0], targets[1], seed=options.seed),
    }
    write_result(options.out or RESULTS / f"decoding-{prepared.model.name}.json", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
