"""Carry benchmarks out: every task with every arm, one result file each, nothing computed twice.

::

    outcomes = run_bench(["harm", "scifact"], ["teacher", "response"], data=Path(...), out=Path("results"), models=...)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval.audit.encodings import EncodingCache, Progress
from safe_retrieval.audit.provenance import provenance, source_state
from safe_retrieval.audit.results import estimate_json
from safe_retrieval.bench.arms import BASELINE, Arm, QuerySide, find_arm
from safe_retrieval.bench.cost import arm_flops
from safe_retrieval.bench.data import TaskData, check_files, load_task
from safe_retrieval.bench.measure import Measured, instruction_of, measure
from safe_retrieval.bench.models import ArmModels, settled
from safe_retrieval.bench.results import FORMAT, Result, ResultStore, per_query_record, result_key
from safe_retrieval.bench.retrieve import ArmEncoder
from safe_retrieval.bench.tasks import Task, TaskKind, find_task
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.encoder.shipped import shipped_name
from safe_retrieval.errors import InputError
from safe_retrieval.models.naming import is_hub_closed


class Status(StrEnum):
    """What became of a pair of task and arm."""

    WRITTEN = "written"
    """Computed now."""
    KEPT = "kept"
    """A result with the same key was there."""
    UNSUPPORTED = "unsupported"
    """The arm cannot do such a task."""


class Outcome(NamedTuple):
    """One pair; ``result`` is ``None`` where the arm cannot do the task."""

    task: str
    arm: str
    status: Status
    path: Path | None
    result: Result | None


@dataclasses.dataclass(frozen=True, slots=True)
class BenchSettings:
    """How benchmarks are run.

    Attributes:
        data: the data folder.
        out: folder of the results.
        cache: folder of the encodings; may be deleted at any time.
        label: folder name of the results in ``out``; ``None`` names teacher and backbone.
        limit: most queries of a task; ``None`` asks all.
        seed: of samples and bootstraps.
        force: compute also what is there.
        offline: open no connection, which tasks that mteb carries out would; models have a setting of their own.
    """

    data: Path
    out: Path
    cache: Path
    label: str | None = None
    limit: int | None = None
    seed: int = 0
    force: bool = False
    offline: bool = False


def run_bench(
    tasks: Sequence[str],
    arms: Sequence[str],
    settings: BenchSettings,
    models: ArmModels,
    *,
    progress: Progress = progress_bar,
) -> Iterator[Outcome]:
    """Run every task with every arm; yields each pair as it is done.

    Args:
        tasks: names of tasks, each once.
        arms: names of arms, each once.
        settings: folders, limit, seed.
        models: the encoders.
        progress: display for encodings that have to be made.

    Raises:
        InputError: a name is unknown or given twice, a limit is below 1, or a task that mteb carries out is to be
            sampled or to open no connection.
        DataError: data are missing or not those of the task's record, or a file stands where a result should go.
        AdapterError, ModelError: an adapter or a model cannot be had.
    """
    chosen = [find_task(name) for name in _distinct(tasks, "task")]
    retrievers = [find_arm(name) for name in _distinct(arms, "arm")]
    source_state()  # before hours of work, not after them
    _check_through_mteb([task for task in chosen if task.kind is TaskKind.MTEB], settings)
    if any(arm.needs_adapter for arm in retrievers):
        models.check_adapter()
    bench = _Bench(settings, models, progress)
    return (outcome for task in chosen for outcome in bench.run(task, retrievers))


def _check_through_mteb(tasks: Sequence[Task], settings: BenchSettings) -> None:
    """What cannot be asked of tasks that mteb carries out is said before anything is measured.

    Raises:
        InputError: they are to be sampled, or to open no connection although their data are the hub's.
    """
    names = ", ".join(task.name for task in tasks)
    if tasks and settings.limit is not None:
        raise InputError(f"{names}: mteb asks all queries of its tasks; leave out the limit, or take other tasks")
    if tasks and is_hub_closed(settings.offline):
        raise InputError(
            f"{names}: mteb takes data from the hub, and offline was asked for; set HF_HUB_OFFLINE=1 as well if the "
            "hub's cache has them, or take other tasks"
        )


def _distinct(names: Sequence[str], what: str) -> Sequence[str]:
    if not names or len(set(names)) != len(names):
        raise InputError(f"expected at least one {what} and each once, got: {', '.join(names) or 'none'}")
    return names


class _Bench:
    def __init__(self, settings: BenchSettings, models: ArmModels, progress: Progress) -> None:
        self._settings, self._models = settings, models
        self._store = ResultStore(settings.out)
        self._encoder = ArmEncoder(models, EncodingCache(settings.cache, progress=progress))

    def run(self, task: Task, arms: Sequence[Arm]) -> Iterator[Outcome]:
        supported = [arm for arm in arms if arm.supports(task.kind)]
        files = check_files(task, self._settings.data) if supported and task.kind is not TaskKind.MTEB else {}
        data: TaskData | None = None
        for named in arms:
            if named not in supported:
                yield Outcome(task.name, named.name, Status.UNSUPPORTED, None, None)
                continue
            arm = settled(named, self._models)
            identity = self._identity(task, arm, files)
            # a sample lies beside the whole: neither replaces the other
            asked = task.name if self._settings.limit is None else f"{task.name}@{self._settings.limit}"
            path = self._store.path(self._label(arm), asked, arm.name)
            key = result_key(identity)
            kept = None if self._settings.force else self._store.matching(path, key)
            if kept is not None:
                yield Outcome(task.name, arm.name, Status.KEPT, path, kept)
                continue
            if data is None and task.kind is not TaskKind.MTEB:
                data = load_task(task, self._settings.data, limit=self._settings.limit, seed=self._settings.seed)
            result = self._compute(task, data, arm, key, identity)
            self._store.write(path, result)
            yield Outcome(task.name, arm.name, Status.WRITTEN, path, result)

    def _identity(self, task: Task, arm: Arm, files: dict[str, str]) -> dict[str, Any]:
        """All that decides a result."""
        record: dict[str, Any] = {}
        if arm.query is not QuerySide.NONE:
            record |= self._models.query(arm).record
        if arm.name != BASELINE:  # every other arm is compared with it
            record |= self._models.document.record
        if arm.needs_verdict:
            record |= self._models.response.record
        return {
            "task": {
                "name": task.name,
                "kind": task.kind,
                "protocol": task.protocol,
                "metric": task.metric,
                "revision": task.revision,
                "instruction": instruction_of(task, arm),
            },
            "arm": arm.record(),
            "models": record,
            "data": files,
            "limit": self._settings.limit,
            "seed": self._settings.seed,
        }

    def _label(self, arm: Arm) -> str:
        teacher = self._models.document.encoder.name
        own = _plain(teacher)
        needs_backbone = arm.needs_adapter or arm.query in {QuerySide.HYDE, QuerySide.ECHO, QuerySide.POOLED}
        if not needs_backbone:
            return own
        if self._settings.label is not None:
            return self._settings.label
        recorded = self._models.response if arm.needs_adapter else self._models.query(arm)
        backbone = recorded.record.get("backbone", {"name": recorded.encoder.name})
        policy = recorded.record.get("policy", recorded.record.get("hyde", {}).get("policy"))
        name = shipped_name(backbone["name"], own, None if policy is None else policy["name"])
        # Both floating points are full precision, and which one is used is the machine's choice; this one is not.
        return _plain(f"{name}--int8" if backbone.get("dtype") == "int8" else name)

    def _compute(self, task: Task, data: TaskData | None, arm: Arm, key: str, identity: dict[str, Any]) -> Result:
        if data is None:
            from safe_retrieval.bench.through_mteb import measure_through_mteb

            measured = measure_through_mteb(task, arm, self._encoder)
        else:
            measured = measure(task, data, arm, self._encoder, seed=self._settings.seed)
        return {
            "format": FORMAT,
            "key": key,
            "task": {**identity["task"], "title": task.title, "source": task.source, "licence": task.licence},
            "arm": identity["arm"],
            "models": identity["models"],
            "data": {"files": identity["data"], "queries": len(measured.queries), "limit": identity["limit"]},
            "seed": identity["seed"],
            "metrics": {name: estimate_json(figure) for name, figure in measured.metrics.items()},
            "comparison": measured.comparison,
            "cost": self._cost(arm, measured, identity["task"]["instruction"]),
            "per_query": {name: per_query_record(values) for name, values in measured.per_query.items()},
            "provenance": provenance({}),
        }

    def _cost(self, arm: Arm, measured: Measured, instruction: str) -> dict[str, Any]:
        if not measured.queries:
            return {"queries_per_second": None, "seconds": dict(measured.seconds), "flops_per_query": None}
        seconds = sum(measured.seconds.values())
        flops = arm_flops(arm, self._models, measured.queries, instruction=instruction)
        return {
            "queries_per_second": round(len(measured.queries) / seconds, 3) if seconds > 0 else None,
            "seconds": {name: round(value, 3) for name, value in measured.seconds.items()},
            "flops_per_query": flops and round(flops),
        }


def _plain(name: str) -> str:
    """A model's name as a folder name."""
    return "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in name).strip("-.") or "model"
