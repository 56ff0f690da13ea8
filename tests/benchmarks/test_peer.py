from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peer
from benchmarks.peer import Job, batches, get_wheel, main, time_to_equal, warm_linear
from safe_retrieval.errors import ConfigError, DownloadError

JOB = Job("config.yaml", "out", steps=5, evaluate_every=2, batch_size=3, learning_rate=1e-3, evaluated=4)


def test_batches_are_whole_and_go_through_everything_before_they_repeat() -> None:
    rows = list(batches(7, JOB, seed=1))
    assert [len(batch) for batch in rows] == [3] * 5
    assert len({row for batch in rows[:2] for row in batch}) == 6
    assert rows == list(batches(7, JOB, seed=1))
    assert rows != list(batches(7, JOB, seed=2))


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [warm_linear(step, 1000) for step in range(1000)]
    assert (factors[0], factors[99]) == (0.01, 1.0)
    assert max(factors) == 1.0
    assert 0 < factors[-1] < 0.01
    assert warm_linear(0, 1) == 1.0


def test_time_to_equal_is_when_each_is_as_good_as_either_ends() -> None:
    ours: list[dict[str, Any]] = [
        {"seconds": 1.0, "cosine": 0.2, "reconstruction": 5.0},
        {"seconds": 2.0, "cosine": 0.5, "reconstruction": 3.5},
        {"seconds": 4.0, "cosine": 0.6, "reconstruction": None},
    ]
    theirs = [
        {"seconds": 8.0, "cosine": 0.4, "reconstruction": 4.0},
        {"seconds": 16.0, "cosine": 0.3, "reconstruction": 3.0},
    ]
    equal = time_to_equal(ours, theirs)
    nothing = {"share": None, "share_at_most": None}
    assert equal["peer"] == {
        "cosine": {"goal": 0.3, "ours": 2.0, "peer": 8.0, **nothing, "share": 0.25},
        "reconstruction": {"goal": 3.0, "ours": None, "peer": 16.0, **nothing},
        "all": {"ours": None, "peer": 16.0, **nothing},
    }
    assert equal["ours"] == {
        "cosine": {"goal": 0.6, "ours": 4.0, "peer": None, **nothing, "share_at_most": 0.25},
        "reconstruction": {"goal": 3.5, "ours": 2.0, "peer": 16.0, **nothing, "share": 0.125},
        "all": {"ours": 4.0, "peer": None, **nothing, "share_at_most": 0.25},
    }


def test_only_the_wheel_that_is_expected_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "llm2vec_gen-0.1.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm2vec_gen/__init__.py", "")
    with pytest.raises(DownloadError, match="expected the wheel of llm2vec-gen"):
        get_wheel(tmp_path, wheel)
    monkeypatch.setattr(peer, "PEER_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert (get_wheel(tmp_path, wheel) / "llm2vec_gen" / "__init__.py").is_file()


def test_a_download_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(DownloadError, match="give --wheel"):
        get_wheel(tmp_path, None)


def test_a_comparison_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "ours").mkdir(parents=True)
    assert main([str(tmp_path / "some.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "no whole curve" in capsys.readouterr().err


def test_a_missing_wheel_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out"), "--wheel", str(tmp_path / "none.whl")]
    assert main(words) == 2
    assert "error: " in capsys.readouterr().err
    assert asdict(JOB)["steps"] == 5


def test_a_comparison_goes_on_with_the_side_that_is_not_done(tmp_path: Path) -> None:
    job = replace(JOB, out=str(tmp_path / "out"))
    peer._claim(job, tmp_path / "out")
    (tmp_path / "out" / "ours").mkdir()
    with pytest.raises(ConfigError, match="no whole curve"):
        peer._claim(job, tmp_path / "out")
    (tmp_path / "out" / "ours.json").write_text("{}")
    peer._claim(job, tmp_path / "out")
    with pytest.raises(ConfigError, match="other settings"):
        peer._claim(replace(job, steps=6), tmp_path / "out")


def test_the_page_says_what_the_result_says() -> None:
    result = json.loads((peer.REPOSITORY / "benchmarks" / "results" / "peer.json").read_text())
    page = (peer.REPOSITORY / "docs" / "benchmarks.md").read_text()
    (joint, heads), (early, late) = result["ours"]["curve"], result["peer"]["curve"]
    points = (joint, heads, early, late)
    losses = [point["reconstruction"] for point in (joint, early, late)]
    for claim in (
        "ours, {:.0f} s | ours, {:.0f} s (heads fitted) | peer, {:.0f} s | peer, {:.0f} s".format(
            *(point["seconds"] for point in points)
        ),
        " | ".join(f"{point['cosine']:.3f}" for point in points),
        " | ".join(f"{100 * point['own_response']:.0f} %" for point in points),
        "{:.2f} | not measured again | {:.2f} | {:.2f}".format(*losses),
        "{:.1f} GB | | {:.1f} GB".format(*(result[side]["peak_megabytes"] / 1_000 for side in ("ours", "peer"))),
        f"at most {joint['seconds'] / late['seconds']:.2f} of its\ntime to that",
        f"at most {result['time_to_equal']['ours']['all']['share_at_most']:.2f} to where it ends",
        f"ours was within {result['time_to_equal']['peer']['reconstruction']['share']:.2f} of its time",
    ):
        assert claim in page, claim
    for better in ("cosine", "reconstruction"):  # than the peer ever was
        sign = 1 if better == "cosine" else -1
        assert all(sign * joint[better] > sign * point[better] for point in (early, late))
