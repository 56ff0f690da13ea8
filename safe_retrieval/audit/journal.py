"""What a target has answered so far, on disk, so that a cut audit asks only what is missing.

One JSON object a line, appended and flushed as answers come: ids, scores and hashes, no text. The first line names
everything that decides the answers; a journal of other settings is begun anew. A line that a cut left unfinished, and
whatever follows it, is dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safe_retrieval.audit.results import Passage
from safe_retrieval.errors import AuditError
from safe_retrieval.types import Hit, Retrieval

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the journal's lines; a journal of another format is not gone on with."""


class Entry(NamedTuple):
    """The answer to one probe.

    Attributes:
        retrieval: as it counts, in ids of the probe set and of the target's own passages.
        own: those of the target's own, by id.
        seconds: the target took.
        repeated: hits that were in the answer before.
        returned: passages that the target gave, before the overlay's were merged in.
    """

    retrieval: Retrieval
    own: Mapping[str, Passage]
    seconds: float
    repeated: int = 0
    returned: int = 0


class Journal:
    """The journal of one target in one audit.

    Args:
        folder: where journals lie; made when needed.
        identity: everything that decides the answers, JSON-serialisable: target, probes, depth.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode("ascii")).hexdigest()
        self._path = folder / f"{self._key}.jsonl"
        self._decision: dict[str, Any] | None = None
        self._entries: dict[str, Entry] = {}
        self._read()

    @property
    def decision(self) -> Mapping[str, Any] | None:
        """What was found out about the target before it was asked; ``None`` before :meth:`decide`."""
        return self._decision

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Answers by probe id."""
        return self._entries

    def decide(self, decision: Mapping[str, Any]) -> None:
        """Write down what was found out.

        Raises:
            AuditError: the file cannot be written.
        """
        self._decision = dict(decision)
        self._write([{"decision": self._decision}])

    def add(self, answers: Mapping[str, Entry]) -> None:
        """Write down answers by probe id; those that are there already stay as they are.

        Raises:
            AuditError: the file cannot be written.
        """
        new = {probe: entry for probe, entry in answers.items() if probe not in self._entries}
        self._entries |= new
        self._write([_to_json(probe, entry) for probe, entry in new.items()])

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            begins = not self._path.exists()
            with self._path.open("a", encoding="ascii", newline="\n") as file:
                file.write((json.dumps({"journal": self._key}) + "\n" if begins else "") + lines)
        except OSError as error:
            raise AuditError(
                f"answers cannot be written to {self._path} ({error}); make room and start again"
            ) from error

    def _read(self) -> None:
        if not self._path.is_file():
            return
        good = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                self._take(line, begins=not good)
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("%s ends in a damaged line and goes on before it: %s", self._path, error)
                break
            good += len(line)
        if not good:
            self._path.unlink()
            return
        with self._path.open("r+b") as file:
            file.truncate(good)

    def _take(self, line: bytes, *, begins: bool) -> None:
        if not line.endswith(b"\n"):
            raise ValueError("the line is not finished")
        row = json.loads(line)
        if begins:
            if row != {"journal": self._key}:
                raise ValueError("it is of other settings")
        elif "decision" in row:
            self._decision = dict(row["decision"])
        else:
            self._entries[row["probe"]] = _from_json(row)


def forget(folder: Path) -> None:
    """Remove all journals: the audit is finished, and the next one asks anew."""
    shutil.rmtree(folder, ignore_errors=True)


def _to_json(probe: str, entry: Entry) -> dict[str, Any]:
    retrieval = entry.retrieval
    return {
        "probe": probe,
        "hits": [[hit.id, hit.score] for hit in retrieval.hits],
        "refusal": retrieval.refusal,
        "flagged": retrieval.flagged,
        "own": {each: [passage.harmful, passage.hazard, passage.text_sha256] for each, passage in entry.own.items()},
        "seconds": entry.seconds,
        "repeated": entry.repeated,
        "returned": entry.returned,
    }


def _from_json(row: Mapping[str, Any]) -> Entry:
    hits = tuple(Hit(str(each), float(score)) for each, score in row["hits"])
    own = {each: Passage(*fields) for each, fields in row["own"].items()}
    retrieval = Retrieval(hits, row["refusal"], row["flagged"])
    return Entry(retrieval, own, row["seconds"], row["repeated"], row["returned"])
