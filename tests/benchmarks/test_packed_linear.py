from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import packed_linear
from safe_retrieval.backbone.language_model import LanguageModel
from tests.support.tiny_models import tiny_model


def test_both_sides_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_OPERATIONS", 1e5)
    loaded: list[bool] = []

    def load(_: str, *, packed: bool) -> LanguageModel:
        loaded.append(packed)
        return tiny_model()

    monkeypatch.setattr(packed_linear.LanguageModel, "load", load)
    out = tmp_path / "result.json"
    packed_linear.main(["--width", "32", "--width-out", "16", "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["rows"] for row in result["products"]] == [1, 4, 16, 64, 128, 640]
    assert all(row["packed_over_plain"] > 0 for row in result["products"] + result["passes"])
    assert loaded == [False, True]
    assert [row["queries"] for row in result["passes"]] == [1, 32]
