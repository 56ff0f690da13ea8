from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.bench import tasks
from safe_retrieval.bench.data import LabelledData, PairData, RetrievalData, check_files, load_task
from safe_retrieval.errors import DataError, InputError
from tests.bench.support import adopt, write_data


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    adopt(monkeypatch, write_data(tmp_path))
    return tmp_path


def harm(name: str, root: Path) -> ProbeSet:
    data = load_task(tasks.TASKS[name], root)
    assert isinstance(data, ProbeSet)
    return data


def test_the_papers_protocol_drops_short_chunks_but_never_the_only_one(root: Path) -> None:
    data = harm("harm-paper", root)
    assert {document.id for document in data.documents} >= {"harm/advbench-ir/m0", "harm/advbench-ir/m2"}
    assert "harm/advbench-ir/m1" not in {document.id for document in data.documents}
    assert data.qrels["harm/advbench-ir/h1"] == {"harm/advbench-ir/m0": 1}
    assert not data.of_kind(ProbeKind.SENSITIVE)
    assert data.documents[0].content.startswith("kettle # request kettle")


def test_the_published_protocol_keeps_all_chunks(root: Path) -> None:
    data = harm("harm-original", root)
    assert len(data.documents) == 6
    assert data.documents[1].content == "kettle # kettle remainder"


def test_ours_has_safe_prompts_and_plain_passages(root: Path) -> None:
    data = harm("harm", root)
    assert [probe.text for probe in data.of_kind(ProbeKind.SENSITIVE)] == ["how to kill a process"]
    assert data.documents[1].content == "kettle kettle remainder"


def test_protocols_are_different_data(root: Path) -> None:
    assert len({harm(name, root).sha256 for name in ("harm-paper", "harm-original", "harm")}) == 3


def test_every_other_kind_is_read(root: Path) -> None:
    scifact = load_task(tasks.TASKS["scifact"], root)
    assert isinstance(scifact, RetrievalData)
    assert [query.id for query in scifact.queries] == ["q0", "q1", "q2"]
    pairs = load_task(tasks.TASKS["stsbenchmark"], root)
    assert isinstance(pairs, PairData)
    assert pairs.scores == (5.0, 3.0, 0.0, 2.0)
    labelled = load_task(tasks.TASKS["banking77"], root)
    assert isinstance(labelled, LabelledData)
    assert (len(labelled.train), len(labelled.test)) == (24, 8)


def test_a_limit_is_a_seeded_sample(root: Path) -> None:
    first, again, other = (load_task(tasks.TASKS["nq-wiki"], root, limit=2, seed=seed) for seed in (1, 1, 5))
    assert first == again
    assert len(first.queries) == 2  # type: ignore[union-attr]
    assert first != other or first.queries == other.queries  # type: ignore[union-attr]
    with pytest.raises(InputError, match="at least one"):
        load_task(tasks.TASKS["nq-wiki"], root, limit=0)


def test_hashes_are_of_what_is_inside(root: Path) -> None:
    plain = root / "sts/stsbenchmark-test.jsonl"
    before = check_files(tasks.TASKS["stsbenchmark"], root)
    with gzip.open(f"{plain}.gz", "wb") as file:
        file.write(plain.read_bytes())
    plain.unlink()
    assert check_files(tasks.TASKS["stsbenchmark"], root) == before


def test_other_data_are_refused(root: Path) -> None:
    path = root / "sts/stsbenchmark-test.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="expected the data that task stsbenchmark is about"):
        check_files(tasks.TASKS["stsbenchmark"], root)
    path.unlink()
    with pytest.raises(DataError, match="found neither"):
        check_files(tasks.TASKS["stsbenchmark"], root)


def test_mteb_brings_its_own_data(root: Path) -> None:
    with pytest.raises(InputError, match="through mteb"):
        load_task(tasks.TASKS["bright"], root)


def test_records_are_complete() -> None:
    for task in tasks.TASKS.values():
        assert task.source
        assert task.licence
        assert bool(task.files) != bool(task.revision), f"{task.name} needs hashes or a revision"
    assert len(set(tasks.MTEB_LITE)) == 10
