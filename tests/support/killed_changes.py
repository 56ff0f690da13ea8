"""A program that changes an index in child processes and kills each of them at a random moment.

Run as ``python -m tests.support.killed_changes OUT KILLS SEED``. After each kill it opens the index and compares it to
a dictionary: everything that was committed must be there, and at most the one change that was under way besides. It
prints how many changes were made, and how often a kill hit one that had not been reported yet.

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
from pathlib import Path

from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import SearchableIndex, create_index, load_index, verify_index
from safe_retrieval.types import Document
from tests.support.encoders import HashEncoder

ENCODER = HashEncoder(dimension=8)
State = dict[str, Document]


class Change:
    """The change with some number: always the same one."""

    def __init__(self, number: int) -> None:
        rng = random.Random(number)
        self.kind = rng.choice(["put", "put", "put", "delete", "compact", "build"])
        ids = [f"n{name}" for name in rng.sample(range(14), rng.randint(1, 5))]
        self.put = [Document(identifier, f"text {number}") for identifier in ids] if self.kind == "put" else []
        self.deleted = ids if self.kind == "delete" else []

    def on_model(self, state: State) -> State:
        """The documents afterwards, by position."""
        gone = {*self.deleted, *(document.id for document in self.put)}
        left = {identifier: document for identifier, document in state.items() if identifier not in gone}
        return {**left, **{document.id: document for document in self.put}}

    def on_index(self, index: SearchableIndex, state: State) -> None:
        """Make the change."""
        match self.kind:
            case "put":
                index.upsert(self.put, ENCODER.encode_documents([document.content for document in self.put]))
            case "delete":
                index.delete(self.deleted)
            case "compact":
                index.compact()
            case _:
                if state:
                    build_index(list(state.values()), ENCODER, index.path, shard_size=3, progress=False)


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


def kill_one(folder: Path, number: int, state: State, rng: random.Random) -> int:
    """Start a child, kill it, and say how many changes it reported."""
    reading, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            change_until_killed(folder, number, state, report)
        finally:
            os._exit(1)  # a child never goes on as the parent
    os.close(report)
    # Some changes first, however slow the machine is, and then a moment somewhere in the next one or two.
    heard, wanted = b"", rng.randint(1, 4)
    while len(heard) < wanted and (part := os.read(reading, 1)):
        heard += part
    time.sleep(rng.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    while part := os.read(reading, 1_024):
        heard += part
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"change {number + heard.count(b'1')} failed: the child ended by itself")
    return heard.count(b"1")


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    build_index([Document("n0", "first")], ENCODER, folder)  # imports everything before the first fork
    shutil.rmtree(folder)
    create_index(folder, ENCODER).close()
    number, state, unreported = 0, State(), 0
    for _ in range(kills):
        for _ in range(kill_one(folder, number, state, rng)):
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
    sys.stdout.write(json.dumps({"changes": number, "unreported": unreported}))


if __name__ == "__main__":
    os.fsync = lambda _: None  # type: ignore[assignment]  # no power is cut
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
