"""Results: one JSON file for each pair of task and arm, known by a key over everything that decides its figures.

``OUT/LABEL/TASK/ARM.json``: LABEL names teacher, and backbone or adapter where the arm has one; TASK is ``harm``, or
``harm@300`` where a sample of 300 queries was asked. A file is written aside
and renamed in; one that is there with the same key is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safe_retrieval.errors import DataError, InputError

FORMAT = 1
"""Of result files; it is part of a result's key too."""

Result: TypeAlias = dict[str, Any]
"""The content of a result file; docs/benchmarks.md describes it."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def result_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over everything that decides a result: task, data, arm, models, seed, limit."""
    content = json.dumps([FORMAT, parts], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def per_query_record(values: Mapping[str, float]) -> dict[str, Any]:
    """Values in the order of the queries, with a hash of their ids, so that two results can be compared query by query.

    Values are rounded to six digits, and whole ones written as integers: a thousand of them take two kilobytes.
    """
    return {
        "ids_sha256": hashlib.sha256("\n".join(values).encode("utf-8", "surrogatepass")).hexdigest(),
        "values": [int(value) if value in {0.0, 1.0} else round(value, 6) for value in values.values()],
    }


class ResultStore:
    """The result files under one folder.

    Args:
        folder: made when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, label: str, task: str, arm: str) -> Path:
        """Where a result lies.

        Raises:
            InputError: the label would not be a plain folder name.
        """
        return self._of_label(label) / task / f"{arm}.json"

    def training_path(self, label: str) -> Path:
        """Where it says how the label's adapter was trained, if it was trained for these results.

        Raises:
            InputError: the label would not be a plain folder name.
        """
        return self._of_label(label) / "training.json"

    def _of_label(self, label: str) -> Path:
        if not _LABEL.fullmatch(label):
            raise InputError(f"expected a label of letters, digits and . _ + -, got {label!r}")
        return self.folder / label

    def matching(self, path: Path, key: str) -> Result | None:
        """The result at ``path`` if it is there and has that key.

        Raises:
            DataError: a file is there and is not a result; it is not ours to replace.
        """
        if not path.is_file():
            return None
        result = read_result(path)
        return result if result["key"] == key else None

    def write(self, path: Path, result: Result) -> None:
        """Write a result whole or not at all; one line a field, so that versions can be compared."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in result.items()]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        partial.replace(path)

    def all(self) -> Iterator[tuple[str, Result]]:
        """Label and content of every result, by path."""
        for path in sorted(self.folder.glob("*/*/*.json")):
            yield path.parent.parent.name, read_result(path)


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        DataError: it cannot be read, is not a result, or has another format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a benchmark's result ({error}); delete it, or move it away"
        ) from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or "key" not in result:
        raise DataError(f"{path}: expected a benchmark's result of format {FORMAT}; move it away, or delete it")
    return result
