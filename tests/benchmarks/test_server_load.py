from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import server_load
from benchmarks.http_clients import Round
from benchmarks.server_load import summary
from tests.server.support import QueryEncoder, served_by
from tests.support.package_source import REPOSITORY


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
    assert query["batching_gain"] > 0
    assert max(encoder.batches) > 1  # clients did share passes; how much that gains depends on the machine
    assert set(result["lanes"]) == {"query", "document"}
    assert {"commit", "cpu", "packages", "threads"} <= result["provenance"].keys()


def test_the_page_says_what_the_result_says() -> None:
    lanes = json.loads((server_load.RESULTS / "server_load.json").read_text())["lanes"]
    page = " ".join((REPOSITORY / "docs" / "server.md").read_text().split())
    sides = [lanes[lane][side] for lane in lanes for side in server_load.SIDES]
    query, document = (lanes[lane]["batched"] for lane in ("query", "document"))
    between = {lane: "{:.1f} to {:.1f}".format(*_extremes(lanes[lane])) for lane in lanes}
    p50, p99 = (
        [round(lane[f"{name}_milliseconds"] / 1000, 1) for lane in (query, document)] for name in ("p50", "p99")
    )
    for claim in (
        f"Of {sum(side['requests'] for side in sides)} requests {sum(side['errors'] for side in sides)} failed",
        f"{lanes['query']['batching_gain']} times as many queries a second ({between['query']} in single rounds)",
        f"{lanes['document']['batching_gain']} times as many documents ({between['document']})",
        f"{p50[0]} and {p99[0]} s for queries and {p50[1]} and {p99[1]} s for documents",
        f"wait for {query['requests_per_second']:.1f} queries a second",
    ):
        assert claim in page, claim


def _extremes(lane: dict[str, Any]) -> tuple[float, float]:
    """Least and greatest gain of a round over the one before it."""
    alone, batched = (lane[side]["requests_per_second_by_round"] for side in ("one_by_one", "batched"))
    gains = [together / by_itself for together, by_itself in zip(batched, alone, strict=True)]
    return min(gains), max(gains)
