from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import training_throughput
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.errors import InputError
from tests.support.tiny_models import tiny_model


def test_the_result_says_what_was_measured_and_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: tiny_model())
    out = tmp_path / "new" / "result.json"
    arguments = ["--queries", "24", "--batch-size", "8", "--workers", "1", "--out", str(out)]
    assert training_throughput.main(arguments) == 0
    result = json.loads(out.read_text())
    assert (result["queries"], result["batch_size"], result["seed"]) == (24, 8, 0)
    assert result["backbone"]["fingerprint"] == tiny_model().fingerprint
    assert [row["compression_tokens"] for row in result["settings"]] == [4, 6, 10]
    for row in result["settings"]:
        assert 0 < row["first_epoch_samples_per_second"] < row["prefixes_per_second"]
        assert row["later_epochs_samples_per_second"] > 0
        assert row["steps_measured"] == [2, 5]  # three steps an epoch, the first of each kind is warm-up
    assert {"commit", "cpu", "packages", "threads"} <= result["provenance"].keys()


def test_more_queries_than_there_are() -> None:
    with pytest.raises(InputError, match="there are no more"):
        training_throughput.measure(tiny_model(), tokens=4, queries=5000, batch_size=8, workers=1)
