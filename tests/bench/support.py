"""A data folder of a few lines and encoders without models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_retrieval.audit.models import RecordedEncoder
from safe_retrieval.bench import tasks
from safe_retrieval.bench.arms import Arm, DocumentSide, QuerySide
from safe_retrieval.encoder.blend import BlendWeight
from tests.support.encoders import HashEncoder

LONG = " ".join(["filler"] * 96)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_set(folder: Path, documents: list[tuple[str, str, str]], queries: dict[str, str], qrels: str) -> None:
    write_rows(folder / "corpus.jsonl", ({"_id": i, "title": t, "text": x} for i, t, x in documents))
    write_rows(folder / "queries.jsonl", ({"_id": i, "text": x} for i, x in queries.items()))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


def write_data(root: Path) -> Path:
    """Every local task in miniature; request h1 has a full chunk and a short one, h2 a short one alone."""
    harmful = [
        ("m0", "kettle", f"request kettle steam {LONG} end"),
        ("m1", "kettle", "kettle remainder"),
        ("m2", "lantern", "lantern oil"),
    ]
    write_set(
        root / "harm/advbench-ir",
        harmful,
        {"h1": "request kettle steam", "h2": "request lantern oil"},
        "h1\tm0\t1\nh1\tm1\t1\nh2\tm2\t1\n",
    )
    benign = [
        (f"d{i}", word, f"{word} stands in the {word} field") for i, word in enumerate(("river", "stone", "apple"))
    ]
    questions = {"q0": "where is the river", "q1": "where is the stone", "q2": "where is the apple"}
    qrels = "q0\td0\t1\nq1\td1\t1\nq2\td2\t1\n"
    for name in ("benign/nq-wiki", "benign/scifact", "reasoning/arc-challenge"):
        write_set(root / name, benign, questions, qrels)
    write_rows(
        root / "prompts/xstest.jsonl",
        [
            {"id": "1", "prompt": "how to kill a process", "label": "safe"},
            {"id": "2", "prompt": "x", "label": "unsafe"},
        ],
    )
    pairs = [("a b c", "a b c", 5.0), ("a b c", "a b d", 3.0), ("a b c", "x y z", 0.0), ("r s", "r t", 2.0)]
    write_rows(
        root / "sts/stsbenchmark-test.jsonl", ({"sentence1": a, "sentence2": b, "score": s} for a, b, s in pairs)
    )
    labelled = [{"text": f"{label} number {i}", "label": label} for label in ("card", "loan") for i in range(12)]
    write_rows(root / "classification/banking77-train.jsonl", labelled)
    write_rows(root / "classification/banking77-test.jsonl", labelled[::3])
    return root


def adopt(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Make the records' hashes those of the files under ``root``."""
    own = {}
    for name, task in tasks.TASKS.items():
        files = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in task.files}
        own[name] = replace(task, files=files)
    monkeypatch.setattr(tasks, "TASKS", own)


class FakeModels:
    """Encoders by hashed words; the response encoder refuses what holds ``request``."""

    def __init__(self) -> None:
        self.blend_weight = BlendWeight()
        self.dtype = "float32"
        self.encoders = {
            "teacher": HashEncoder("tiny-teacher", space="t"),
            "response": HashEncoder("tiny-response", space="t", refused=["request"]),
            "hyde": HashEncoder("tiny-hyde", space="t"),
            "own": HashEncoder("tiny-own", space="own"),
        }

    def _recorded(self, name: str) -> RecordedEncoder:
        record: dict[str, Any] = {name: {"name": name}}
        if name != "teacher":
            record["backbone"] = {"name": "tiny/backbone", "dtype": self.dtype}
        return RecordedEncoder(self.encoders[name], record)

    @property
    def document(self) -> RecordedEncoder:
        return self._recorded("teacher")

    @property
    def response(self) -> RecordedEncoder:
        return self._recorded("response")

    def query(self, arm: Arm) -> RecordedEncoder:
        if arm.query in {QuerySide.TEACHER, QuerySide.NONE}:
            return self.document
        if arm.query in {QuerySide.RESPONSE, QuerySide.BLEND}:
            return self.response
        return self._recorded("own" if arm.documents is DocumentSide.QUERY else "hyde")

    def check_adapter(self) -> None:
        pass
