from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decoding
from safe_retrieval.errors import InputError
from safe_retrieval.training import responses, trainer
from safe_retrieval.training.config import load_config
from tests.support.tiny_models import save_tiny_model
from tests.support.tiny_training import refuses, write_config


def test_verdicts_and_what_always_answering_would_reach() -> None:
    own = np.array([True, True, False, False, False])
    found = decoding.agreement(np.array([True, False, False, False, True]), own)
    assert found["same_verdict"]["value"] == pytest.approx(0.6)
    assert found["of_refusals"]["value"] == pytest.approx(0.5)
    assert found["always_answering"] == pytest.approx(0.6)
    assert decoding.agreement(~own, np.zeros(5, bool))["of_refusals"] is None


def test_shuffled_texts_are_other_ones() -> None:
    vectors = np.eye(7, dtype=np.float32)
    found = decoding.nearness(vectors, vectors, seed=0)
    values = [found[name]["value"] for name in ("cosine", "shuffled_cosine", "difference")]
    assert values == pytest.approx([1, 0, 1])
    with pytest.raises(InputError, match="at least two"):
        decoding.nearness(vectors[:1], vectors[:1], seed=0)


def test_a_finished_run_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "is_refusal", refuses)
    config = write_config(tmp_path, save_tiny_model(tmp_path / "backbone"), optimiser={"epochs": 1, "head_epochs": 0})
    trainer.train(load_config(config), offline=True)
    out = tmp_path / "result.json"
    assert decoding.main([str(config), "--queries", "8", "--offline", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["queries"] == result["cosine"]["n"] == 8
    assert result["training"]["queries"] == 40
    assert -1 <= result["shuffled_cosine"]["value"] <= 1
