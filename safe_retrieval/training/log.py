"""The log of a run: ``log.jsonl``, one line a step or evaluation, for plots and for comparing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safe_retrieval.training.checkpoint import Position


class TrainingLog:
    """Append-only log that a resumed run cuts back to its checkpoint first, so that no step stands in it twice.

    Args:
        path: the file; made where it is missing.
        resumed_at: where the run goes on; ``None`` starts an empty log.
        phases: all phases, in the order in which they run.
    """

    def __init__(self, path: Path, resumed_at: Position | None, phases: tuple[str, ...]) -> None:
        kept: list[str] = []
        if resumed_at is not None and path.exists():
            limit = (phases.index(resumed_at.phase), resumed_at.step)
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                row = _parsed(line)
                if row is not None and row["phase"] in phases and (phases.index(row["phase"]), row["step"]) <= limit:
                    kept.append(line)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        self._path = path

    def write(self, position: Position, **values: Any) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": position.phase, "step": position.step, **values}) + "\n")

    def held_out(self, phase: str) -> list[dict[str, Any]]:
        """The evaluations of a phase so far, in order."""
        return [row["held_out"] for row in self._evaluations(phase)]

    def held_out_at(self, position: Position) -> dict[str, Any] | None:
        """The evaluation that was made there; ``None`` where there was none."""
        return next(
            (row["held_out"] for row in self._evaluations(position.phase) if row["step"] == position.step), None
        )

    def _evaluations(self, phase: str) -> list[dict[str, Any]]:
        return [row for row in read_log(self._path) if row["phase"] == phase and "held_out" in row]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, in order."""
    rows = (_parsed(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None  # the last line of a killed run
    return row if isinstance(row, dict) and {"phase", "step"} <= row.keys() else None
