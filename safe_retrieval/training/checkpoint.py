"""Checkpoints of a training run: safetensors and JSON, written aside and renamed in.

One file holds parameters and optimiser state, its metadata says where the run stands. A run killed at any moment
resumes from the last whole checkpoint. A checksum covers all of it, so a flipped bit is an error and not a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from safe_retrieval.errors import TrainingError
from safe_retrieval.training.checksums import checksum


class Position(NamedTuple):
    """Where a run stands: the phase, and optimiser steps done in it."""

    phase: str
    step: int


class Checkpoints:
    """The checkpoint of one run.

    Args:
        folder: the run's folder.
        settings_hash: hash of all settings and of what is trained on; a checkpoint of others is refused.
        name: of the file.
    """

    def __init__(self, folder: Path, settings_hash: str, *, name: str = "checkpoint") -> None:
        self._file = folder / f"{name}.safetensors"
        self._hash = settings_hash

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._file.parent

    @property
    def best(self) -> Checkpoints:
        """The place beside this one for the parameters of the best evaluation so far."""
        return Checkpoints(self._file.parent, self._hash, name="best")

    def discard(self) -> None:
        """Delete the checkpoint, if there is one."""
        self._file.unlink(missing_ok=True)

    def save(self, position: Position, module: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Replace the checkpoint; without an optimiser it holds parameters alone."""
        tensors = {f"module.{name}": tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        states = {} if optimiser is None else optimiser.state_dict()["state"]
        for index, state in states.items():
            tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
        metadata = {"phase": position.phase, "step": str(position.step), "settings": self._hash}
        partial = self._file.with_suffix(".partial")
        run = json.dumps(metadata)
        save_file(tensors, partial, metadata={"run": run, "checksum": str(_checksum(run, tensors))})
        partial.replace(self._file)

    def position(self) -> Position | None:
        """Where the kept checkpoint stands; ``None`` where there is none.

        Raises:
            TrainingError: the file is damaged or belongs to other settings.
        """
        if not self._file.exists():
            return None
        metadata = self._read()[0]
        if metadata["settings"] != self._hash:
            raise TrainingError(
                f"{self._file} belongs to other settings or other responses; give another 'out' folder, or delete it"
            )
        return Position(metadata["phase"], int(metadata["step"]))

    def restore(self, module: nn.Module, optimiser: torch.optim.Optimizer | None) -> None:
        """Load parameters, and optimiser state where an optimiser is given."""
        tensors = self._read()[1]
        module.load_state_dict(
            {name.removeprefix("module."): tensor for name, tensor in tensors.items() if name.startswith("module.")}
        )
        if optimiser is None:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        whole = optimiser.state_dict()
        optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        try:
            with safe_open(self._file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
            if metadata["checksum"] != str(_checksum(metadata["run"], tensors)):
                raise TrainingError(f"{self._file} is damaged (its checksum differs); delete it to start the run anew")
            return json.loads(metadata["run"]), tensors
        except (SafetensorError, KeyError, OSError) as error:
            raise TrainingError(f"{self._file} is damaged ({error}); delete it to start the run anew") from error


def _checksum(run: str, tensors: Mapping[str, Tensor]) -> int:
    names = sorted(tensors)
    return checksum((tensors[name] for name in names), seed="\n".join((run, *names)))
