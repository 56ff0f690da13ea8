from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import eight_bit
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.types import QueryEncoding
from tests.support.judges import save_judge
from tests.support.processors import exact_products  # noqa: F401  # a fixture


@pytest.mark.usefixtures("exact_products")
def test_both_sides_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_judge(tmp_path, ["what is bread?", "who was she?"])
    load = ResponseEncoder.load
    monkeypatch.setattr(eight_bit.ResponseEncoder, "load", lambda *, backbone, dtype: load(adapter, dtype=dtype))
    out = tmp_path / "result.json"
    eight_bit.main(["--queries", "40", "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["precision"]["int8"] == "int8" != result["precision"]["full"]
    assert [row["queries"] for row in result["speed"]] == [1, 32]
    assert all(row["int8_over_full"] > 0 for row in result["speed"])
    assert result["distance"]["queries"] == 40
    assert 0.9 < result["distance"]["cosine"]["least"] < 1


def test_distance_counts_verdicts_that_change_sides() -> None:
    same = np.eye(2, dtype=np.float32)
    full = QueryEncoding(same, np.array([0.95, 0.5], dtype=np.float32))
    int8 = QueryEncoding(same, np.array([0.85, 0.4], dtype=np.float32))
    found = eight_bit.distance(full, int8)
    assert found["cosine"] == {"mean": 1.0, "least": 1.0}
    assert found["refusal_apart"] == {"mean": pytest.approx(0.1), "most": pytest.approx(0.1)}
    assert found["same_side_of_the_gate"] == 0.5
