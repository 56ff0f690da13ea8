"""A process killed by the system in the middle of its work, and the same command given again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.training.config import TrainingConfig, load_config
from safe_retrieval.training.log import read_log
from safe_retrieval.training.responses import read_responses
from safe_retrieval.training.trainer import train
from tests.support.tiny_training import QUERIES, write_config

pytestmark = pytest.mark.usefixtures("verdicts")


def killed_when(config: Path, ready: Callable[[], bool], kind: signal.Signals, *, delay: float = 0.15) -> None:
    """Start the run in a process of its own, wait for ``ready``, and kill it."""
    command = [sys.executable, "-m", "tests.support.tiny_training", str(config), str(delay)]
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


@pytest.mark.parametrize("head", ["mlp", "ridge"])
def test_killed_outright_in_each_phase(tmp_path: Path, backbone: Path, head: str) -> None:
    whole = load_config(write_config(tmp_path / "whole", backbone, adapter={"head": head}))
    path = write_config(tmp_path / "cut", backbone, adapter={"head": head})
    config = load_config(path)
    log = config.out / "log.jsonl"

    def rows_of(phase: str) -> int:
        return sum(row["phase"] == phase for row in read_log(log)) if log.exists() else 0

    killed_when(path, lambda: rows_of("joint") > 3, signal.SIGKILL, delay=0.3)
    assert 3 < rows_of("joint") < 12  # 10 steps and 2 evaluations
    assert rows_of("heads") == 0
    if head == "mlp":  # a head in closed form has no steps to be killed between
        killed_when(path, lambda: rows_of("heads") > 3, signal.SIGKILL, delay=0.3)
        assert 3 < rows_of("heads") < 12
        assert rows_of("refusal") == 0
    assert not (config.out / "adapter").exists()

    for run in (whole, config):
        train(run, offline=True)
    one, other = (read_log(run.out / "log.jsonl") for run in (whole, config))
    assert [(row["phase"], row["step"], sorted(row)) for row in one] == [
        (row["phase"], row["step"], sorted(row)) for row in other
    ]
    for name in ("alignment", "refusal_auroc"):
        before, after = ([row[name] for row in rows if name in row] for rows in (one, other))
        assert after == pytest.approx(before, abs=1e-4)
    first, second = (load_adapter(run.out / "adapter") for run in (whole, config))
    assert first.record.training["held_out"] == pytest.approx(second.record.training["held_out"], abs=1e-4)
    for name, tensor in first.adapter.state_dict().items():
        torch.testing.assert_close(second.adapter.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)  # float16 on disk
    assert not [file.name for file in config.out.iterdir() if file.name.startswith("tmp")]


def figures(config: TrainingConfig) -> dict[str, float]:
    rows = [row for row in read_log(config.out / "log.jsonl") if "alignment" in row]
    named = {f"{row['phase']} {row['step']}": float(row["alignment"]) for row in rows}
    assert len(named) == len(rows) == 20
    return named
