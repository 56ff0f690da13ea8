from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from safe_retrieval.encoder.adapter import Beside
from safe_retrieval.errors import TrainingError
from safe_retrieval.training import phases
from safe_retrieval.training.checkpoint import Checkpoints
from safe_retrieval.training.config import LossSettings
from safe_retrieval.training.evaluation import evaluate
from safe_retrieval.training.phases import Examples, Run, _Patience, _rate, _reconstructed


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    rates = [_rate(step, 100, 10) for step in range(101)]
    assert rates[:11] == pytest.approx([*np.arange(1, 11) / 10, 1.0])
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[99] < 0.001
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[55] == pytest.approx(0.5)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 5), (5, 5), (3, 0)])
def test_short_runs_have_a_rate_too(total: int, warmup: int) -> None:
    rates = [_rate(step, total, warmup) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)


def test_patience() -> None:
    patience = _Patience(2)
    over = []
    for value in (0.1, 0.3, 0.2, 0.31, 0.30, 0.31):
        patience.take(value)
        over.append(patience.is_over)
    assert over == [False, False, False, False, False, True]
    endless = _Patience(None)
    for _ in range(50):
        endless.take(0.0)
    assert not endless.is_over


def run_with(**loss: Any) -> Run:
    examples = Examples([f"q{i}" for i in range(40)], [[1]] * 40, torch.zeros(40, 2), torch.zeros(40, dtype=torch.bool))
    nothing = cast("Any", None)
    settings = LossSettings(**loss)
    return Run(nothing, nothing, nothing, examples, examples, settings, nothing, nothing, nothing, 7, 1)


def test_what_is_reconstructed_does_not_depend_on_the_slicing() -> None:
    run = run_with(reconstruction_share=0.4)
    rows = list(range(39, -1, -1))
    whole = [row for _, row in _reconstructed(run, rows, epoch=1)]
    halves = [row for part in (rows[:20], rows[20:]) for _, row in _reconstructed(run, part, epoch=1)]
    assert whole == halves
    assert 5 < len(whole) < 28
    assert all(rows[place] == row for place, row in _reconstructed(run, rows, epoch=1))
    assert whole != [row for _, row in _reconstructed(run, rows, epoch=2)]


@pytest.mark.parametrize("loss", [{"reconstruction_share": 0.0}, {"reconstruction_weight": 0.0}])
def test_nothing_is_reconstructed_where_it_would_not_count(loss: dict[str, float]) -> None:
    assert _reconstructed(run_with(**loss), list(range(40)), epoch=0) == []


def test_all_of_it_is_reconstructed_at_a_share_of_one() -> None:
    assert len(_reconstructed(run_with(reconstruction_share=1.0), list(range(40)), epoch=0)) == 40


class Disk:
    """Stands in for an unnamed file, and fills up."""

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, _: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def mapped_run(monkeypatch: pytest.MonkeyPatch, folder: Path, parts: list[phases._Read]) -> Run:
    monkeypatch.setattr(phases, "_projections", lambda *_: iter(parts))
    return run_with()._replace(checkpoints=Checkpoints(folder, ""))


def test_states_lie_in_a_file_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [phases._Read(torch.randn(size, 3, 4), Beside()) for size in (16, 16, 8)]
    run = mapped_run(monkeypatch, tmp_path, parts)
    states = phases._mapped_states(run, run.training.queries, 12, {})
    assert torch.equal(states, torch.cat([part.projected for part in parts]).flatten(1))
    assert not list(tmp_path.iterdir())


def test_what_else_is_read_stands_behind_the_states_at_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Beside(torch.ones(40, 2), torch.ones(40, 1))
    run = mapped_run(monkeypatch, tmp_path, [phases._Read(torch.randn(40, 3, 4), beside)])
    scales = {"values": torch.tensor([2.0, 4.0]), "first_token": torch.tensor([8.0])}
    states = phases._mapped_states(run, run.training.queries, 15, scales)
    assert torch.equal(states[:, 12:], torch.tensor([0.5, 0.25, 0.125]).expand(40, 3))


def test_no_room_for_the_states_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mapped_run(monkeypatch, tmp_path, [phases._Read(torch.zeros(40, 3, 4), Beside())])
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Disk())
    with pytest.raises(TrainingError, match=r"states of 40 queries, 0\.0 GB.*No space left.*free some disk"):
        phases._mapped_states(run, run.training.queries, 12, {})


def test_evaluation_by_hand() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    vectors = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    figures = evaluate(vectors, targets, 1.5)
    assert figures.cosine == pytest.approx((0.6 + 1.0 + 0.0) / 3)
    # row 0 is nearer to the others' target; row 1 shares its target with row 2, which counts as found; row 2 is lost
    assert figures.own_response == pytest.approx(1 / 3)
    assert figures.reconstruction == 1.5
