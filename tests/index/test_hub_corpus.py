"""Data sets by name: a local folder of files stands in for the hub, and the library itself for its failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import httpx
import pytest

from safe_retrieval.errors import DataError, DownloadError, OfflineError
from safe_retrieval.index.corpus import Fields, Rejects
from safe_retrieval.index.hub_corpus import read_dataset
from safe_retrieval.types import Document


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    rows = [{"_id": f"d{n}", "title": "T", "text": f"text {n}", "n": n} for n in range(4)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    return str(tmp_path / "set")


def test_a_local_data_set_by_name(folder: str, tmp_path: Path) -> None:
    expected = [Document(f"d{n}", f"text {n}", "T", {"n": n}) for n in range(4)]
    assert list(read_dataset(folder, offline=True)) == expected
    assert list(read_dataset(folder, split="train")) == expected
    (first, *_) = read_dataset(folder, fields=Fields(id="text", text="title", title="_id"))
    assert first == Document("text 0", "T", "d0", {"n": 0})
    with Rejects(tmp_path / "rejected.jsonl") as rejects:
        assert list(read_dataset(folder, fields=Fields(id="title"), rejects=rejects)) != []
    assert rejects.count == 3  # one title, four times


def test_the_split_has_to_be_clear(folder: str) -> None:
    Path(folder, "test.jsonl").write_text('{"_id": "t", "text": "test"}\n')
    with pytest.raises(DataError, match="has the splits train, test; name the one"):
        read_dataset(folder)
    assert [document.id for document in read_dataset(folder, split="test")] == ["t"]
    with pytest.raises(DataError, match="cannot be read"):
        list(read_dataset(folder, split="validation"))
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(folder, config="absent")


def test_offline_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OfflineError, match=r"'BeIR/scifact' would have to be read from the hub"):
        read_dataset("BeIR/scifact", offline=True)
    with monkeypatch.context() as patch:
        patch.setenv("SAFE_RETRIEVAL_OFFLINE", "1")
        with pytest.raises(OfflineError):
            read_dataset("BeIR/scifact")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError):
        read_dataset("BeIR/scifact")


def failing_with(error: Exception) -> Any:
    def load(*_: object, **__: object) -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (datasets.exceptions.DatasetNotFoundError("no such set"), DataError),
        (RuntimeError("Dataset scripts are no longer supported"), DataError),
        (ConnectionError("Couldn't reach the hub"), DownloadError),
        (httpx.ConnectError("refused"), DownloadError),
    ],
)
def test_failures_name_the_data_set(monkeypatch: pytest.MonkeyPatch, error: Exception, ours: type[Exception]) -> None:
    monkeypatch.setattr(datasets, "load_dataset", failing_with(error))
    with pytest.raises(ours, match="some/set"):
        read_dataset("some/set")


def test_a_network_that_fails_on_the_way_says_after_which_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"_id": "a", "text": "b"}
        raise httpx.ReadTimeout("too slow")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    documents = read_dataset("some/set")
    assert next(documents).id == "a"
    with pytest.raises(DownloadError, match="some/set, after row 1: the network failed"):
        next(documents)
