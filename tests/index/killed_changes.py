"""A program that changes an index in child processes and kills each of them in the middle of a change.

Run as ``python -m tests.index.killed_changes OUT KILLS SEED``. The kinds of change take turns at being the one that is
under way, and the moment in it is random. After each kill the index is opened and compared to a dictionary: everything
that was committed must be there, and at most the one change that was under way besides. The program prints how many
changes were made, and how often a kill hit each kind.

Children are forked, since starting Python takes longer than fifty changes; with one OpenMP thread, as the test sets,
forking is safe.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from safe_retrieval.index import factories
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import SearchableIndex, create_index, load_index, verify_index
from safe_retrieval.index.steps import build_in_shards
from safe_retrieval.types import Document
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder(dimension=8)
LISTS = "IVF2,SQ8"
LEAST = 4
"""Documents that clusters need here."""

KINDS = ("put", "delete", "compact", "build", "shards", "graph", "lists")
"""The last two are compactions, into a graph and into clusters."""
ORDER = ("put", "delete", "put", "compact", "put", "build", "put", "shards", "put", "graph", "put", "lists")
UNKNOWN = 0.02
"""Seconds that a change takes of which none was seen yet."""

State = dict[str, Document]


class Change:
    """The change with some number: always the same one, of the kind whose turn it is."""

    def __init__(self, number: int) -> None:
        rng = random.Random(number)
        self.kind = ORDER[number % len(ORDER)]
        ids = [f"n{name}" for name in rng.sample(range(14), rng.randint(1, 5))]
        self.put = [Document(identifier, f"text {number}") for identifier in ids] if self.kind == "put" else []
        self.deleted = ids if self.kind == "delete" else []

    def on_model(self, state: State) -> State:
        """The documents afterwards, by position."""
        gone = {*self.deleted, *(document.id for document in self.put)}
        left = {identifier: document for identifier, document in state.items() if identifier not in gone}
        return {**left, **{document.id: document for document in self.put}}

    def on_index(self, index: SearchableIndex, state: State) -> None:
        """Make the change; clusters are for as many documents as they need."""
        documents, lists = list(state.values()), LISTS if len(state) >= 2 * LEAST else "Flat"
        match self.kind:
            case "put":
                index.upsert(self.put, ENCODER.encode_documents([document.content for document in self.put]))
            case "delete":
                index.delete(self.deleted)
            case "compact":
                index.compact(factory="Flat")
            case "graph":
                index.compact(factory="HNSW8")
            case "lists":
                index.compact(factory=lists)
            case "build" if documents:
                build_index(documents, ENCODER, index.path, shard_size=3, progress=False)
            case "shards" if documents:
                shards = min(3, len(documents))
                build_in_shards(documents, ENCODER, index.path, shards=shards, factory=lists, progress=False)


class Killed(NamedTuple):
    """How many changes a child reported, and what it was at when it was killed."""

    reported: int
    under_way: str


def change_until_killed(folder: Path, number: int, state: State, report: int) -> None:
    """What a child does; it reports each change when it is committed."""
    with load_index(folder) as index:
        os.write(report, b"0")
        while True:
            change = Change(number)
            change.on_index(index, state)
            state = change.on_model(state)
            os.write(report, b"1")
            number += 1


def kill_one(
    folder: Path, number: int, state: State, kind: str, *, took: dict[str, float], rng: random.Random
) -> Killed:
    """Start a child and kill it in its first change of some kind behind the first one.

    ``took`` says how many seconds the last change of each kind took, and is brought up to date: the moment is to be one
    in that change, however fast the machine is.
    """
    reading, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            change_until_killed(folder, number, state, report)
        finally:
            os._exit(1)  # a child never goes on as the parent
    os.close(report)
    wanted = 1
    while Change(number + wanted).kind != kind:
        wanted += 1
    os.read(reading, 1)  # it is open
    heard, before = b"", time.monotonic()
    while len(heard) < wanted and (part := os.read(reading, 1)):
        now = time.monotonic()
        took[Change(number + len(heard)).kind] = now - before
        heard, before = heard + part, now
    time.sleep(rng.uniform(0, took.get(kind, UNKNOWN)))
    os.kill(child, signal.SIGKILL)
    while part := os.read(reading, 1_024):
        heard += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"change {number + len(heard)} failed: the child ended by itself")
    return Killed(len(heard), Change(number + len(heard)).kind)


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    build_index([Document("n0", "first")], ENCODER, folder)  # imports everything before the first fork
    shutil.rmtree(folder)
    create_index(folder, ENCODER).close()
    number, state = 0, State()
    hit, unreported = Counter[str](), 0
    took: dict[str, float] = {}
    for turn in range(kills):
        reported, under_way = kill_one(folder, number, state, KINDS[turn % len(KINDS)], took=took, rng=rng)
        hit[under_way] += 1
        for _ in range(reported):
            state = Change(number).on_model(state)
            number += 1
        with load_index(folder) as index:
            found = list(index.documents())
        if found != list(state.values()):
            state = Change(number).on_model(state)
            number += 1
            unreported += 1
        if found != list(state.values()):
            raise SystemExit(f"after change {number}: neither the state before it nor the one after it")
        if faults := verify_index(folder):
            raise SystemExit(f"after change {number}: {faults}")
    sys.stdout.write(json.dumps({"changes": number, "unreported": unreported, "hit": hit}))


if __name__ == "__main__":
    os.fsync = lambda _: None  # type: ignore[assignment]  # no power is cut
    factories._LEAST_TRAINING = LEAST
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
