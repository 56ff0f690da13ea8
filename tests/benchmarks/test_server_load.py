from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import server_load
from benchmarks.server_load import Round, summary
from tests.server.support import QueryEncoder, served_by


def test_percentiles_are_over_requests_and_throughput_is_the_median_round() -> None:
    found = summary([Round(1.0, [0.1] * 98 + [1.0, 1.0], 0), Round(2.0, [0.1] * 100, 3), Round(4.0, [0.1] * 100, 0)])
    assert (found["requests"], found["errors"]) == (303, 3)
    assert found["requests_per_second_by_round"] == [100.0, 50.0, 25.0]
    assert found["requests_per_second"] == 50.0
    assert found["p50_milliseconds"] == 100.0
    assert 100.0 <= found["p99_milliseconds"] <= 1000.0


def test_the_result_says_what_was_measured_and_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = QueryEncoder(delay=0.01)
    monkeypatch.setattr(server_load, "open_served", lambda *_, **__: served_by(encoder))
    out = tmp_path / "new" / "result.json"
    arguments = ["--clients", "8", "--requests", "2", "--rounds", "2", "--out", str(out)]
    assert server_load.main(arguments) == 0
    result = json.loads(out.read_text())
    assert (result["clients"], result["rounds"], result["seed"]) == (8, 2, 0)
    assert result["models"] == {"query": "hash-encoder", "document": "hash-encoder"}
    query: dict[str, Any] = result["lanes"]["query"]
    for side in ("one_by_one", "batched"):
        assert (query[side]["requests"], query[side]["errors"]) == (32, 0)
        assert query[side]["p50_milliseconds"] <= query[side]["p99_milliseconds"]
    assert query["batching_gain"] > 1  # ten milliseconds for a pass, whatever its size
    assert set(result["lanes"]) == {"query", "document"}
    assert {"commit", "cpu", "packages", "threads"} <= result["provenance"].keys()
