"""The steps of a build, run by Ray Data: on this machine's cores, or on a cluster that shares a file system.

Documents never travel through Ray: a task is the number of a shard, and whoever gets it reads the shard's documents
from the index folder and writes its vectors there. So a worker that dies costs the shard it was at, and Ray gives that
one to another; a driver that dies costs nothing that lies on the disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval._extras import require
from safe_retrieval.encoder.progress import progress_bar
from safe_retrieval.errors import IndexFolderError, InputError
from safe_retrieval.index.factories import FLAT, parse_factory
from safe_retrieval.index.manifest import IndexManifest
from safe_retrieval.index.plan import BuildPlan
from safe_retrieval.index.publish import locked
from safe_retrieval.index.steps import add_shard, embed_shard, merged, missing_shards, planned, train_index
from safe_retrieval.types import Document, Encoder

_OBJECT_STORE = 100_000_000
"""Bytes of Ray's own shared memory on a machine that we start it on: only numbers of shards go through it."""

_SHARDS_A_WORKER = 4
_MOST_DOCUMENTS = 65_536
"""Documents of a shard, where nobody says how many shards: minutes of a GPU, a quarter of an hour of slow cores."""


def build_with_ray(
    documents: Iterable[Document],
    load_encoder: Callable[[], Encoder],
    out: str | Path,
    *,
    shards: int | None = None,
    workers: int = 2,
    gpus: float = 0,
    factory: str = FLAT,
    memory: int | None = None,
    batch_size: int = 32,
    deletes: bool = False,
    resume: bool = True,
    progress: bool | None = None,
) -> IndexManifest:
    """Build an index with several workers; otherwise as :func:`~safe_retrieval.index.builder.build_index`.

    A Ray that is running, here or where ``RAY_ADDRESS`` says, is used as it is; otherwise one is started on this
    machine and stopped at the end.

    Args:
        documents: the corpus; read once, in order, by this process.
        load_encoder: gives the encoder of documents; called here and in each worker.
        out: the index folder, on a file system that all workers see under the same path.
        shards: how many pieces of work there are: several for each worker, since a worker's death costs one of them.
            ``None`` goes by the number of documents (:func:`usual_shards`).
        workers: processes that encode, at most.
        gpus: of each worker; a fraction shares one.
        factory, memory, batch_size, deletes, resume: as for a build on one machine.
        progress: whether to show bars on stderr, in place of Ray's own; ``None`` shows them from 500 documents up.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError, DataError, IndexFolderError, IndexLockedError: as in
            :func:`~safe_retrieval.index.steps.plan_build`; IndexFolderError also where a worker fails.
    """
    if workers < 1:
        raise InputError(f"expected at least one worker, got {workers}")
    ray = require("ray", extra="ray", purpose="builds over several workers")
    require("ray.data", extra="ray", purpose="builds over several workers")
    out = Path(out).resolve()
    with locked(out):  # throughout: another build would plan anew over this one's documents
        encoder = load_encoder()
        plan = planned(
            documents,
            encoder,
            out,
            shards=partial(usual_shards, workers=workers) if shards is None else shards,
            factory=factory,
            memory=memory,
            batch_size=batch_size,
            deletes=deletes,
            resume=resume,
        )
        missing = missing_shards(out, encoder)
        embed = _Work(f"Indexing with {encoder.name}", _Embedder, (str(out), load_encoder), workers, gpus)
        del encoder  # this process encodes nothing more
        with _running(ray, workers), _quiet(ray):
            _each(ray, embed, plan, missing, show=progress)
            train_index(out)
            if parse_factory(plan.factory).lists:  # also where an earlier driver died between training and adding
                add = _Work(f"Adding to {plan.factory}", _Adder, (str(out),), workers)
                _each(ray, add, plan, range(len(plan.shards)), show=progress)
        return merged(out, progress=progress)


def usual_shards(count: int, *, workers: int) -> int:
    """Pieces that a corpus of so many documents is cut into where nobody says how many.

    Four for each worker, and more where they would hold more than 65,536 documents; never more than documents.
    """
    return min(count, max(_SHARDS_A_WORKER * workers, -(-count // _MOST_DOCUMENTS)))


class _Work(NamedTuple):
    """What is done to each shard, by how many workers, each with a share of GPUs."""

    title: str
    worker: type
    arguments: tuple[Any, ...]
    workers: int
    gpus: float = 0


class _Embedder:
    """A worker that encodes shards; it loads the encoder once."""

    def __init__(self, out: str, load_encoder: Callable[[], Encoder]) -> None:
        self._out = out
        self._encoder = load_encoder()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        embed_shard(self._out, int(row["item"]), self._encoder)
        return row


class _Adder:
    """A worker that puts shards into the lists of the trained index."""

    def __init__(self, out: str) -> None:
        self._out = out

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        add_shard(self._out, int(row["item"]))
        return row


def _each(ray: Any, work: _Work, plan: BuildPlan, shards: Iterable[int], *, show: bool | None) -> None:
    """Let workers take shard after shard until all are done; Ray Data starts a dead worker and its shard again."""
    sizes = {number: plan.shards[number].stop - plan.shards[number].start for number in shards}
    if not sizes:
        return
    tasks = ray.data.from_items(list(sizes), override_num_blocks=len(sizes))
    done = tasks.map(
        work.worker,
        fn_constructor_args=work.arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(work.workers, len(sizes))),
        num_cpus=1,
        num_gpus=work.gpus or None,
    )
    with progress_bar(sum(sizes.values()), work.title, show=show) as advance:
        try:
            for row in done.iter_rows():
                advance(sizes[int(row["item"])])
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]  # of a worker's traceback, what went wrong
            raise IndexFolderError(
                f"a worker failed ({last}); what was finished is kept: mend it and run the same again"
            ) from error


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray Data from its own displays, of which there would be several a second."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


@contextmanager
def _running(ray: Any, workers: int) -> Iterator[None]:
    """A Ray to work with."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray would report that it was used
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
    else:
        ray.init(
            num_cpus=workers,
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    try:
        yield
    finally:
        ray.shutdown()
