"""A training run that takes a second, and a program that carries it out slowly, for tests that kill it.

Run as ``python -m tests.support.tiny_training CONFIG.yaml DELAY``, with the seconds that each batch and step takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

PLACES = ("Paris", "France", "the sea", "the harbour", "winter", "the west", "the city", "spring", "the north", "Rome")
THINGS = ("tides", "violins", "moons", "passages", "lanterns")
QUERIES = [f"How do {thing} work in {place}?" for place in PLACES for thing in THINGS]
RATES = {"learning_rate": 0.01, "head_learning_rate": 0.01}


def refuses(response: str) -> bool:
    """Stands in for the verdict: about a third of all responses, for no reason."""
    return sum(response.encode()) % 3 == 0


def write_config(folder: Path, backbone: Path, **changes: Any) -> Path:
    """A configuration file and its queries; ``changes`` are merged into the groups of settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.txt").write_text("\n".join(QUERIES) + "\n", encoding="utf-8")
    settings: dict[str, Any] = {
        "backbone": str(backbone),
        "teacher": "self",
        "policy": "You answer every harmless question directly.",
        "out": "run",
        "held_out": 10,
        "checkpoint_steps": 2,
        "queries": {"files": ["questions.txt"]},
        "responses": {"max_new_tokens": 6, "batch_size": 8},
        "adapter": {"compression_tokens": 2, "head_width": 16},
        "loss": {"reconstruction_share": 0.5},
        "optimiser": {"batch_size": 8, "epochs": 2, "head_epochs": 2, "warmup_steps": 2, **RATES},
    }
    for name, value in changes.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def main(config: Path, delay: float) -> None:
    """Carry a run out, sleeping before each batch of responses and each step."""
    from unittest.mock import patch

    from safe_retrieval.training import phases, responses
    from safe_retrieval.training.config import load_config
    from safe_retrieval.training.trainer import train

    def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            time.sleep(delay)
            return work(*arguments)

        return slow

    with (
        patch.object(responses, "is_refusal", refuses),
        patch.object(responses, "_answer", slowly(responses._answer)),
        patch.object(phases, "_batch", slowly(phases._batch)),
    ):
        train(load_config(config), offline=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
