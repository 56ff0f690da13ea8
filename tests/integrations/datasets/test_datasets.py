from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Value

from datasets_safe_retrieval import SafeDatasetIndex, add_safe_index, load_safe_index
from safe_retrieval.errors import DataError, InputError
from safe_retrieval.index.folder import load_index
from tests.integrations.stand_ins import DOCUMENTS, HARMLESS, REFUSED, install
from tests.support.encoders import HashEncoder


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def rows() -> Dataset:
    return Dataset.from_dict({"id": [each.id for each in DOCUMENTS], "text": [each.text for each in DOCUMENTS]})


def test_the_data_set_answers_for_itself(tmp_path: Path) -> None:
    dataset = rows()
    assert add_safe_index(dataset, "text", tmp_path / "index") is dataset
    assert dataset.list_indexes() == ["text"]
    scores, examples = dataset.get_nearest_examples("text", HARMLESS, k=2)
    assert examples["id"][0] == "v"
    assert scores[0] >= scores[1]
    assert dataset.search("text", HARMLESS, k=1).indices == [0]
    batch = dataset.get_nearest_examples_batch("text", [HARMLESS, "copper north"], k=1)
    assert [found["id"] for found in batch.total_examples] == [["v"], ["c"]]
    assert len(dataset.search("text", HARMLESS, k=99).indices) == 3


def test_the_gate(tmp_path: Path) -> None:
    dataset = add_safe_index(rows(), "text", tmp_path / "index", gate="empty", index_name="safe")
    assert dataset.search("safe", REFUSED).indices == []
    scores, examples = dataset.get_nearest_examples("safe", REFUSED, k=2)
    assert (len(scores), examples["id"]) == (0, [])
    batch = dataset.get_nearest_examples_batch("safe", [REFUSED, HARMLESS], k=1)
    assert [found["id"] for found in batch.total_examples] == [[], ["v"]]
    index = dataset.get_index("safe")
    assert isinstance(index, SafeDatasetIndex)
    (verdict,) = index.retrieve([REFUSED])
    assert (verdict.flagged, verdict.refusal) == (True, pytest.approx(0.96))


def test_vectors_are_taken_where_nothing_has_to_be_judged(tmp_path: Path) -> None:
    vector = HashEncoder().encode_queries([HARMLESS])[0]
    dataset = add_safe_index(rows(), "text", tmp_path / "index")
    assert dataset.search("text", vector, k=1).indices == [0]
    assert dataset.search_batch("text", np.stack([vector, vector]), k=1).total_indices == [[0], [0]]
    gated = load_safe_index(rows(), "text", tmp_path / "index", gate="empty")
    with pytest.raises(InputError, match="refusal probability"):
        gated.search("text", vector)


def test_what_the_library_makes_of_a_data_set_with_an_index(tmp_path: Path) -> None:
    dataset = add_safe_index(rows(), "text", tmp_path / "index", gate="empty")
    copies = {
        "with_format": dataset.with_format("numpy"),
        "with_transform": dataset.with_transform(lambda batch: batch),
        "rename_column": dataset.rename_column("id", "key"),
        "remove_columns": dataset.remove_columns("id"),
        "deepcopy": copy.deepcopy(dataset),
    }
    for name, copied in copies.items():
        assert copied.search("text", HARMLESS, k=1).indices == [0], name
        assert copied.search("text", REFUSED).indices == [], name
    assert copies["with_format"].get_nearest_examples("text", HARMLESS, k=1).examples["id"].tolist() == ["v"]
    for anew in (
        dataset.map(lambda row: {"length": len(row["text"])}),
        dataset.cast_column("id", Value("large_string")),
        dataset.add_column("n", [1, 2, 3]),
    ):
        assert (anew.list_indexes(), len(anew)) == ([], 3)
    assert next(iter(dataset.to_iterable_dataset()))["id"] == "v"
    with pytest.raises(Exception, match="drop_index"):
        dataset.select([0])


def test_an_index_is_loaded_beside_its_own_rows_alone(tmp_path: Path) -> None:
    add_safe_index(rows(), "text", tmp_path / "index")
    dataset = load_safe_index(rows(), "text", tmp_path / "index", arm="output", index_name="again")
    assert dataset.search("again", HARMLESS, k=1).indices == [0]
    for other in (rows().select([0, 1]), rows().select([1, 0, 2]), Dataset.from_dict({"text": ["a", "b", "c", "d"]})):
        with pytest.raises(InputError, match="is not document"):
            load_safe_index(other, "text", tmp_path / "index")


def test_rows_of_any_format_and_order(tmp_path: Path) -> None:
    dataset = rows().select([2, 0, 1])
    dataset.set_format("numpy")
    add_safe_index(dataset, "text", tmp_path / "index")
    assert dataset.format["type"] == "numpy"
    assert dataset.search("text", HARMLESS, k=1).indices == [1]
    stored = [(document.id, document.text) for document in load_index(tmp_path / "index").documents()]
    assert stored[1] == ("1", "the violin is old")
    add_safe_index(dataset, "text", tmp_path / "index")  # replaces what is there


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: add_safe_index(rows(), "body", path), "column out of id, text"),
        (lambda path: add_safe_index(Dataset.from_dict({"text": ["a", None]}), "text", path), "row 1"),
        (lambda path: add_safe_index(rows(), "text", path, arm="sideways"), "input, output"),
        (lambda path: add_safe_index(rows(), "text", path).search("text", "a", k=0), "at least 1"),
        (lambda path: add_safe_index(rows(), "text", path).search("text", "a", nprobe=2), "nprobe"),
        (lambda path: add_safe_index(rows(), "text", path).search("text", {"a": 1}), "a text or a vector"),
        (lambda path: load_safe_index(rows(), "body", path), "column out of id, text"),
    ],
)
def test_wrong_arguments_say_what_was_expected(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path / "index")


def test_no_rows_make_no_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        add_safe_index(Dataset.from_dict({"text": []}), "text", tmp_path / "index")
