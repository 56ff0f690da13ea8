"""A process killed by the system in the middle of its work, and the same command given again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.training.config import TrainingConfig, load_config
from safe_retrieval.training.log import read_log
from safe_retrieval.training.responses import read_responses
from safe_retrieval.training.trainer import train
from tests.support.tiny_training import QUERIES, write_config

pytestmark = pytest.mark.usefixtures("verdicts")


def killed_when(config: Path, ready: Callable[[], bool], kind: signal.Signals) -> None:
    """Start the run in a process of its own, wait for ``ready``, and kill it."""
    command = [sys.executable, "-m", "tests.support.tiny_training", str(config), "0.15"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while not ready():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(kind)
        process.wait(timeout=60)
        assert process.returncode == -kind


def test_killed_while_it_answers_and_while_it_trains(tmp_path: Path, backbone: Path) -> None:
    whole = load_config(write_config(tmp_path / "whole", backbone))
    path = write_config(tmp_path / "cut", backbone)
    config = load_config(path)
    rows, log = config.out / "responses.jsonl", config.out / "log.jsonl"

    killed_when(path, lambda: rows.exists() and rows.read_bytes().count(b"\n") > 16, signal.SIGKILL)
    answered = read_responses(rows)[1]
    assert 16 <= len(answered) < len(QUERIES)

    killed_when(path, lambda: log.exists() and log.read_bytes().count(b"\n") > 4, signal.SIGTERM)
    found = read_responses(rows)[1]
    assert found[: len(answered)] == answered
    assert sorted(row.query for row in found) == sorted(QUERIES)  # none lost, none twice
    assert 4 <= len(read_log(log)) < 20

    for run in (whole, config):
        train(run, offline=True)
    assert sorted(read_responses(rows)[1]) == sorted(read_responses(whole.out / "responses.jsonl")[1])
    assert figures(config) == pytest.approx(figures(whole), abs=1e-4)
    one, other = (load_adapter(run.out / "adapter").record.training["held_out"] for run in (whole, config))
    assert one == pytest.approx(other, abs=1e-4)


def figures(config: TrainingConfig) -> dict[str, float]:
    rows = [row for row in read_log(config.out / "log.jsonl") if "alignment" in row]
    named = {f"{row['phase']} {row['step']}": float(row["alignment"]) for row in rows}
    assert len(named) == len(rows) == 20
    return named
