from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from safe_retrieval.errors import DataError
from safe_retrieval.training.queries import (
    TrainingQuery,
    evaluation_texts,
    normalise,
    read_queries,
    sample,
    without,
)


def write(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do tides work?", "how do  TIDES work"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff28ello", "hello"),
        ("it's, so", "it s so"),
    ],
)
def test_what_counts_as_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_what_does_not() -> None:
    assert normalise("tides in France") != normalise("tide in France")
    assert normalise("?!") == ""


def test_read_in_order_without_doubles(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "first.jsonl.gz", [{"text": "How do tides work?"}, {"text": "??"}, {"text": "a", "more": 1}]),
        write(tmp_path / "second.jsonl", [{"text": "how do tides work"}, {"text": "half \ud83d nul \0 end"}]),
        tmp_path / "third.txt",
    ]
    files[2].write_text("  a \n\nlast one\n", encoding="utf-8")
    assert read_queries(files) == [
        TrainingQuery("How do tides work?", "first"),
        TrainingQuery("a", "first"),
        TrainingQuery("half \ufffd nul \ufffd end", "second"),
        TrainingQuery("last one", "third"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": 5}\n', "line 2"),
        ('{"text": "a"}\nnonsense\n', "line 2"),
        ("[]\n", "line 1"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as raised:
        read_queries([path])
    assert str(path) in str(raised.value)


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        read_queries([tmp_path / "missing.jsonl"])
    path = write(tmp_path / "cut.jsonl.gz", [{"text": f"query {number}"} for number in range(500)])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz"):
        read_queries([path])


def test_kept_apart_from_what_is_evaluated(tmp_path: Path) -> None:
    write(tmp_path / "harm" / "set" / "queries.jsonl.gz", [{"_id": "1", "text": "How do I do harm?"}])
    write(tmp_path / "harm" / "set" / "corpus.jsonl.gz", [{"_id": "1", "text": "a passage"}])
    write(tmp_path / "sts" / "test.jsonl", [{"sentence1": "One.", "sentence2": "Two."}])
    write(tmp_path / "train-queries" / "own.jsonl.gz", [{"text": "mine"}])
    write(tmp_path / "prompts" / "xstest.jsonl.gz", [{"prompt": "How do I kill a process?", "label": "safe"}])
    forbidden = evaluation_texts(tmp_path)
    assert sorted(forbidden) == ["How do I do harm?", "How do I kill a process?", "One.", "Two."]
    given = [TrainingQuery(text, "s") for text in ("how do i do harm", "two", "mine", "a passage")]
    assert [query.text for query in without(given, forbidden)] == ["mine", "a passage"]


def test_a_wrong_evaluation_folder_does_not_let_everything_through(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        evaluation_texts(tmp_path / "mistyped")


POOL = [
    TrainingQuery(f"{source} {number}", source)
    for source, size in (("a", 50), ("b", 30), ("c", 20))
    for number in range(size)
]


def test_a_sample_is_seeded_shuffled_and_has_its_shares() -> None:
    chosen = sample(POOL, 40, seed=1, shares={"b": 0.5})
    assert chosen == sample(POOL, 40, seed=1, shares={"b": 0.5})
    assert chosen != sample(POOL, 40, seed=2, shares={"b": 0.5})
    assert len({*chosen}) == 40
    counts = Counter(query.source for query in chosen)
    assert counts["b"] == 20
    assert counts["a"] > counts["c"]
    assert [query.source for query in chosen] != sorted(query.source for query in chosen)


def test_a_share_goes_as_far_as_the_source() -> None:
    assert Counter(query.source for query in sample(POOL, 100, seed=0, shares={"c": 0.9})) == {
        "a": 50,
        "b": 30,
        "c": 20,
    }
    assert len(sample(POOL, 1000, seed=0, shares={})) == 100
    assert Counter(query.source for query in sample(POOL, 10, seed=0, shares={"a": 0.0}))["a"] == 0
