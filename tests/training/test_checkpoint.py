from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from safe_retrieval.errors import TrainingError
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.log import TrainingLog, read_log


def module(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def steps(net: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        gradients = torch.autograd.grad(net(torch.ones(2, 3)).square().sum(), list(net.parameters()))
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()


def test_a_restored_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    net = module(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    steps(net, optimiser, 3)
    Checkpoints(tmp_path, "a").save(Position("joint", 3), net, optimiser)
    steps(net, optimiser, 4)

    again = module(1)
    other = torch.optim.AdamW(again.parameters(), lr=0.01)
    kept = Checkpoints(tmp_path, "a")
    assert kept.position() == Position("joint", 3)
    kept.restore(again, other)
    steps(again, other, 4)
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_no_checkpoint_is_a_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, "a").position() is None


def save(folder: Path) -> Path:
    net = module(0)
    Checkpoints(folder, "a").save(Position("heads", 2), net, torch.optim.AdamW(net.parameters()))
    return folder / "checkpoint.safetensors"


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    with pytest.raises(TrainingError, match="other settings") as raised:
        Checkpoints(tmp_path, "b").position()
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, length: int) -> None:
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors is damaged.*delete it"):
        Checkpoints(tmp_path, "a").position()


@pytest.mark.parametrize("place", [-1, 40])
def test_a_flipped_bit_in_a_checkpoint_is_named(tmp_path: Path, place: int) -> None:
    path = save(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors is damaged.*delete it"):
        Checkpoints(tmp_path, "a").position()


def test_a_write_that_was_cut_leaves_the_last_one(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "checkpoint.partial").write_bytes(b"half")
    assert Checkpoints(tmp_path, "a").position() == Position("heads", 2)
    save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


PHASES = ("joint", "heads")


def test_a_log_is_cut_back_to_where_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, None, PHASES)
    for step in (1, 2, 3):
        log.write(Position("joint", step), alignment=0.5)
    log.write(Position("joint", 3), epoch=1, held_out={"cosine": 0.1})
    log.write(Position("heads", 1), alignment=0.4)
    with path.open("a") as file:
        file.write('{"phase": "heads", "st')
    again = TrainingLog(path, Position("heads", 1), PHASES)
    assert [(row["phase"], row["step"]) for row in read_log(path)] == [("joint", s) for s in (1, 2, 3, 3)] + [
        ("heads", 1)
    ]
    assert again.held_out("joint") == [{"cosine": 0.1}]
    assert again.held_out("heads") == []
    assert [row["step"] for row in read_log(path)] == [1, 2, 3, 3, 1]
    TrainingLog(path, Position("joint", 2), PHASES)
    assert [row["step"] for row in read_log(path)] == [1, 2]
    TrainingLog(path, None, PHASES)
    assert read_log(path) == []


def test_lines_of_another_program_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"phase": "third", "step": 1}\n[1]\nnonsense\n{"phase": "joint", "step": 1}\n')
    TrainingLog(path, Position("joint", 5), PHASES)
    assert read_log(path) == [{"phase": "joint", "step": 1}]
