from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.probe_sources import load_probes
from safe_retrieval.audit.probes import Placement, ProbeKind, ProbeSet, load_probe_set
from safe_retrieval.audit.settings import AuditSettings, load_settings
from safe_retrieval.errors import ConfigError, DataError, DownloadError, InputError, OfflineError
from tests.audit.retrievers import probes, write_beir


def settings(*probe_settings: dict[str, Any], **others: Any) -> AuditSettings:
    return load_settings({"targets": [{"kind": "arm", "arm": "bm25"}], "probes": probe_settings, **others})


def read(*probe_settings: dict[str, Any], **others: Any) -> ProbeSet:
    return load_probes(settings(*probe_settings, **others))


def test_the_built_in_set_is_the_default_and_every_probe_says_where_it_comes_from() -> None:
    found = load_probes(load_settings({"targets": [{"kind": "arm", "arm": "bm25"}]}))
    assert found == load_probe_set()
    for probe in found.queries:
        assert probe.source == "safe-retrieval-probes"
        assert probe.license == "Apache-2.0"
        assert len(probe.sha256) == 64
        assert isinstance(probe.hazard, Hazard)


def test_folders_in_beir_form(tmp_path: Path) -> None:
    harmful = write_beir(tmp_path / "bad", probes(2), ProbeKind.HARMFUL)
    benign = write_beir(tmp_path / "good", probes(2), ProbeKind.BENIGN)
    lines = [json.loads(line) for line in (harmful / "queries.jsonl").read_text().splitlines()]
    lines[0]["category"] = "privacy"
    (harmful / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(
        {"kind": "beir", "path": harmful, "role": "harmful", "hazard": "hate", "hazard_field": "category"},
        {"kind": "beir", "path": benign, "role": "benign", "name": "ours", "placement": "held"},
    )
    assert found.name == "bad+ours"
    assert [probe.hazard for probe in found.of_kind(ProbeKind.HARMFUL)] == [Hazard.PRIVACY, Hazard.HATE]
    assert {document.metadata["hazard"] for document in found.documents} == {"hate", None}
    assert found.held == {document.id for document in found.documents if document.id.startswith("ours/")}
    assert [source.placement for source in found.sources] == [Placement.OVERLAY, Placement.HELD]
    assert found.qrels["ours/q-benign-0"] == {"ours/benign-0": 1}
    lines[0]["category"] = "rude"
    (harmful / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match="query 'q-harmful-0': expected one of violent-crimes"):
        read({"kind": "beir", "path": harmful, "role": "harmful", "hazard_field": "category"})


def test_prompts_of_several_forms(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "first", "label": "unsafe", "category": "privacy"},
        {"prompt": "second", "label": "unsafe"},
        {"id": "c", "prompt": "third", "label": "safe"},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "red.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "plain.txt").write_text("one\n\ntwo\n")
    found = read(
        {
            "kind": "prompts",
            "path": tmp_path / "red.jsonl.gz",
            "role": "harmful",
            "where": {"label": "unsafe"},
            "hazard": "hate",
            "hazard_field": "category",
            "license": "MIT",
        },
        {"kind": "prompts", "path": tmp_path / "plain.txt", "role": "sensitive", "text_field": "line"},
    )
    assert [(probe.id, probe.text, probe.hazard, probe.license) for probe in found.queries] == [
        ("red/a", "first", Hazard.PRIVACY, "MIT"),
        ("red/2", "second", Hazard.HATE, "MIT"),
        ("plain/1", "one", Hazard.UNMAPPED, "unknown"),
        ("plain/3", "two", Hazard.UNMAPPED, "unknown"),
    ]
    assert found.documents == ()


def test_prompts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "red.jsonl").write_text('{"id": 1, "text": "x"}\n')
    red = {"kind": "prompts", "path": tmp_path / "red.jsonl", "role": "harmful"}
    with pytest.raises(DataError, match=r"red\.jsonl, line 1: expected a string in 'prompt'"):
        read(red)
    with pytest.raises(DataError, match="expected at least one prompt with"):
        read({**red, "text_field": "text", "where": {"label": "unsafe"}})
    with pytest.raises(DataError, match="line 1: expected a hazard"):
        read({**red, "text_field": "text", "hazard_field": "text"})
    with pytest.raises(ConfigError, match="a benign query needs passages"):
        read({**red, "role": "benign"})


@pytest.mark.parametrize("name", ["harmful_behaviors.csv", "prompts.json", "prompts.tsv.gz", "prompts"])
def test_a_table_is_no_list_of_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("goal,target\na,b\n")
    with pytest.raises(DataError, match=r"expected prompts as \.txt .* JSON lines"):
        read({"kind": "prompts", "path": tmp_path / name, "role": "harmful"})


def test_advbench_from_a_folder(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "anywhere", probes(1), ProbeKind.HARMFUL)
    found = read({"kind": "advbench-ir", "path": folder, "placement": "reference"})
    assert found.sources[0].license == "MIT"
    assert found.reference == {"harm/advbench-ir/harmful-0"}


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def load_dataset(name: str, split: str) -> Any:
        assert (name, split) == ("McGill-NLP/AdvBench-IR", "train")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def test_offline_holds_for_data_sets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, AssertionError("it was asked"))
    monkeypatch.setenv("SAFE_RETRIEVAL_OFFLINE", "1")
    with pytest.raises(OfflineError, match="give a path"):
        read({"kind": "advbench-ir"})


def test_advbench_from_the_hub_is_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(f"w{number}" for number in range(230))
    hub(monkeypatch, datasets.Dataset.from_list([{"ID": 4, "query": "q", "title": "t", "document": words}]))
    found = read({"kind": "advbench-ir"})
    assert [len(document.text.split()) for document in found.documents] == [100, 100, 30]
    assert found.documents[0].title == "t"
    assert found.qrels == {
        "harm/advbench-ir/advbench_4": {f"harm/advbench-ir/malicious_4-{place}": 1 for place in range(3)}
    }
    assert found.sources[0].origin == "hf:McGill-NLP/AdvBench-IR"


def test_a_hub_that_does_not_answer_or_has_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, OSError("no route"))
    with pytest.raises(DownloadError, match="give a path in its place"):
        read({"kind": "advbench-ir"})
    hub(monkeypatch, datasets.Dataset.from_list([{"ID": 1, "query": "q"}]))
    with pytest.raises(DataError, match="without document, title it is not that set"):
        read({"kind": "advbench-ir"})
    with pytest.raises(OfflineError, match="give a path"):
        read({"kind": "advbench-ir"}, offline=True)


def test_sets_of_one_name(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "bad", probes(1), ProbeKind.HARMFUL)
    one = {"kind": "beir", "path": folder, "role": "harmful"}
    with pytest.raises(InputError, match="the set 'bad' comes twice among the probes; give the sets names"):
        read(one, one)
