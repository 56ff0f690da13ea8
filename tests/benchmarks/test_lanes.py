from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import lanes
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from tests.support.tiny_pair import save_tiny_pair


def test_both_sides_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = save_tiny_pair(tmp_path)
    teacher = InputEncoder.load(pair.document_encoder)
    response = ResponseEncoder.load(pair.adapter, backbone=pair.backbone)
    monkeypatch.setattr(lanes.InputEncoder, "load", lambda: teacher)
    monkeypatch.setattr(lanes.ResponseEncoder, "load", lambda backbone: response)
    out = tmp_path / "result.json"
    lanes.main(["--documents", "12", "--queries", "9", "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    for part, texts in (("documents", 12), ("queries", 9), ("one_batch_of_32_queries", 9)):
        assert result[part]["texts"] == texts
        assert result[part]["lanes_over_one_at_a_time"] > 0
