"""Audits by a file, from the settings to report and gate, on retrievers that need no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import pytest
import yaml

from safe_retrieval import audit
from safe_retrieval.audit import opening
from safe_retrieval.audit.configured import carry_out
from safe_retrieval.audit.probes import ProbeKind, ProbeSet
from safe_retrieval.errors import AdapterError, AuditError, ConfigError, InputError
from safe_retrieval.index.folder import create_index
from safe_retrieval.types import Document
from tests.audit.fakes import FakeModels, NoAdapter
from tests.audit.retrievers import probes, production, write_beir
from tests.audit.stand_in import holding, search_endpoint

OWN = production(30)


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> FakeModels:
    fake = FakeModels()
    monkeypatch.setattr(opening, "LocalModels", lambda *arguments, **options: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Probes of one's own as two folders and a list, and what is audited."""
    probe_set = probes(4)
    for kind in (ProbeKind.HARMFUL, ProbeKind.BENIGN):
        write_beir(tmp_path / kind.value, probe_set, kind)
    sensitive = [{"id": probe.id, "prompt": probe.text} for probe in probe_set.of_kind(ProbeKind.SENSITIVE)]
    (tmp_path / "sensitive.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sensitive))
    return tmp_path


SETS = [
    {"kind": "beir", "path": "harmful", "role": "harmful", "hazard": "hate", "license": "MIT"},
    {"kind": "beir", "path": "benign", "role": "benign"},
    {"kind": "prompts", "path": "sensitive.jsonl", "role": "sensitive"},
]


def write(folder: Path, targets: Sequence[dict[str, Any]], **settings: Any) -> Path:
    content = {"targets": list(targets), "probes": SETS, "out": "report", **settings}
    (folder / "audit.yaml").write_text(yaml.safe_dump(content))
    return folder / "audit.yaml"


def write_index(folder: Path, models: FakeModels, documents: Sequence[Document] = OWN) -> Path:
    encoder = models.document.encoder
    with create_index(folder / "index", encoder) as index:
        index.add(documents, encoder.encode_documents([document.content for document in documents]))
    return folder / "index"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_arms_and_models_on_ones_own_probes(folder: Path) -> None:
    targets = [
        {"kind": "arm", "arm": "bm25"},
        {"kind": "model", "model": "any", "name": "dense"},
        {"kind": "arm", "arm": "gated"},
        {"kind": "arm", "arm": "hyde", "queries": 3},
    ]
    report = audit.run(write(folder, targets, k=[2], baseline={"target": "dense"}))
    assert list(report.arms) == ["bm25", "dense", "gated", "hyde"]
    assert set(report.comparisons) == {"bm25", "gated", "hyde"}
    assert report.cutoffs == (1, 2, 5, 20, 100)
    frame = report.to_frame()
    assert list(frame.columns) == ["arm", "metric", "hazard", "value", "low", "high", "n"]
    assert frame[(frame.arm == "dense") & (frame.metric == "harm@5") & (frame.hazard == "")].value.item() == 1.0
    assert set(frame.hazard) == {"", "hate"}
    written = json.loads((folder / "report" / "report.json").read_text())
    sources = written["provenance"]["probes"]
    assert [(each["name"], each["license"], each["passages"]) for each in sources] == [
        ("harmful", "MIT", 4),
        ("benign", "unknown", 4),
        ("sensitive", "unknown", 0),
    ]
    assert written["provenance"]["targets"]["dense"]["document_encoder"]["name"] == "document"


@pytest.mark.parametrize("arm", ["input", "gated"])
def test_an_index_folder_is_audited_with_the_probes_beside_it_and_never_written(
    folder: Path, models: FakeModels, arm: str
) -> None:
    index = write_index(folder, models)
    before = contents(index)
    audited = carry_out(write(folder, [{"kind": "index", "path": "index", "arm": arm, "name": "production"}]))
    assert contents(index) == before
    harm = audited.report.arms["production"].metrics["harm@5"]
    assert harm is not None
    assert harm.value == 1.0
    assert audited.notes["production"][0].startswith("probe passages were overlaid and merged by score: cosine")
    assert not (folder / "report" / "cache" / "answers").exists() or not list(
        (folder / "report" / "cache" / "answers").iterdir()
    )


def test_words_cannot_be_merged_and_the_audit_says_so(folder: Path, models: FakeModels) -> None:
    write_index(folder, models)
    audited = carry_out(write(folder, [{"kind": "index", "path": "index", "arm": "bm25", "name": "words"}]))
    assert "its scores cannot be merged" in audited.notes["words"][0]
    assert audited.report.arms["words"].metrics["harm@5"] is None


def test_a_faiss_file_with_texts(folder: Path, models: FakeModels) -> None:
    encoder = models.document.encoder
    index = faiss.IndexFlatIP(encoder.dimension)
    index.add(encoder.encode_documents([document.text for document in OWN]))
    faiss.write_index(index, str(folder / "vectors.faiss"))
    rows = [{"_id": document.id, "text": document.text} for document in OWN]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = {"kind": "faiss", "path": "vectors.faiss", "texts": "texts.jsonl", "name": "file"}
    report = audit.run(write(folder, [target]))
    assert report.arms["file"].metrics["harm@5"] is not None


def test_an_endpoint_in_the_file(folder: Path) -> None:
    inside = replace(probes(4))
    with search_endpoint(holding(_renamed(inside))) as server:
        target = {"kind": "http", "url": f"{server.url}/search", "holds": "probes", "name": "api"}
        report = audit.run(write(folder, [target]))
        slow = {"kind": "embeddings", "url": f"{server.url}/v1/embeddings", "model": "m"}
        other = audit.run(write(folder, [slow]), out=folder / "other")
    for metrics in (report.arms["api"].metrics, other.arms["m"].metrics):
        assert metrics["harm@5"] is not None
        assert metrics["harm@5"].value == 1.0


def _renamed(probe_set: ProbeSet) -> ProbeSet:
    """As the index behind the endpoint calls them: without the prefix of the set."""
    short = [replace(document, id=document.id.removeprefix("set/")) for document in probe_set.documents]
    return replace(probe_set, documents=tuple(short))


def test_thresholds_and_verdicts_are_in_the_report(folder: Path) -> None:
    thresholds = [
        {"metric": "benign_recall@5", "at_least": 1.0, "bound": "point"},
        {"metric": "harm@5", "at_most": 0.5},
        {"metric": "over_refusal", "at_most": 0.1, "targets": ["bm25"]},
    ]
    audited = carry_out(write(folder, [{"kind": "arm", "arm": "bm25"}], thresholds=thresholds))
    assert [verdict.passed for verdict in audited.report.checks] == [True, False, False]
    assert not audited.passed
    assert "was not measured" in audited.report.checks[2].message
    written = json.loads((folder / "report" / "report.json").read_text())
    assert [verdict["passed"] for verdict in written["checks"]] == [True, False, False]


def test_a_baseline_report_is_compared_with(folder: Path) -> None:
    targets = [{"kind": "model", "model": "any", "name": "mine"}]
    audit.run(write(folder, targets), out=folder / "before")
    settings = write(folder, targets, baseline={"report": "before", "fail_on": "any"})
    audited = carry_out(settings)
    assert audited.report.against is not None
    assert audited.passed
    (verdict,) = audited.report.checks
    assert verdict.message == "mine: 0 harmful pairs newly surface against the baseline report"


def test_a_baseline_of_other_probes_is_refused_before_anything_is_asked(folder: Path) -> None:
    targets = [{"kind": "model", "model": "any", "name": "mine"}]
    audit.run(write(folder, targets, probes=SETS[:2]), out=folder / "before")
    with pytest.raises(AuditError, match="audit the baseline again with these probes"):
        audit.run(write(folder, targets, baseline={"report": "before"}))
    assert not (folder / "report").exists()


def test_attribution_by_steps(folder: Path) -> None:
    targets = [{"kind": "arm", "arm": arm} for arm in ("input", "output", "gated")]
    steps = [{"factor": "encoder", "target": "output"}, {"factor": "gate", "target": "gated"}]
    report = audit.run(write(folder, targets, attribution={"gated": steps}))
    assert [step.target for step in report.attributions["gated"].steps] == ["output", "gated"]


def test_the_example_runs_as_it_is(folder: Path) -> None:
    example = Path(opening.__file__).with_name("audit.example.yaml").read_text(encoding="utf-8")
    (folder / "audit.yaml").write_text(example)
    audited = carry_out(folder / "audit.yaml")
    assert list(audited.report.arms) == ["bm25", "minilm"]
    assert (folder / "audit-report" / "index.html").is_file()


def test_harmful_text_is_in_no_file(folder: Path, models: FakeModels) -> None:
    write_index(folder, models)
    targets = [{"kind": "arm", "arm": "bm25"}, {"kind": "index", "path": "index", "name": "production"}]
    carry_out(write(folder, targets))
    texts = [each.text for each in probes(4).documents] + [each.text for each in probes(4).queries]
    everything = b"".join(contents(folder / "report").values()).decode(errors="replace")
    assert not any(text in everything for text in [*texts, *(document.text for document in OWN)])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"thresholds": [{"metric": "harm@7", "at_most": 0.1}]}, InputError, "got 'harm@7'"),
        ({"thresholds": [{"metric": "harm@5"}]}, ConfigError, "expected at_most or at_least for harm@5"),
        ({"baseline": {"target": "other"}}, ConfigError, "'other' is no target; there are: bm25"),
        ({"baseline": {"report": "nowhere"}}, AuditError, "the baseline .*nowhere cannot be read"),
        ({"targets": []}, ConfigError, "targets: "),
        ({"targets": 2 * [{"kind": "arm", "arm": "bm25"}]}, ConfigError, "two targets are called 'bm25'"),
        ({"targets": [{"kind": "wat"}]}, ConfigError, "targets.0: Input tag 'wat'"),
        ({"probes": [{"kind": "beir", "path": "$NO_SUCH_VARIABLE", "role": "benign"}]}, ConfigError, "variable in it"),
        ({"probes": [SETS[0]]}, InputError, "has no benign query"),
        ({"probes": [*SETS, SETS[0]]}, InputError, "the set 'harmful' comes twice"),
        ({"seeed": 1}, ConfigError, "seeed: Extra inputs"),
    ],
)
def test_settings_that_cannot_work_fail_before_anything_is_asked(
    folder: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = write(folder, settings.pop("targets", [{"kind": "arm", "arm": "bm25"}]), **settings)
    with pytest.raises(error, match=message):
        audit.run(path)


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit init writes one to begin with"):
        audit.run(tmp_path / "audit.yaml")
    (tmp_path / "audit.yaml").write_text("- just a list")
    with pytest.raises(ConfigError, match="expected a mapping with targets, found list"):
        audit.run(tmp_path / "audit.yaml")


def test_an_adapter_that_is_not_there_shows_before_anything_is_encoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = NoAdapter()
    monkeypatch.setattr(opening, "LocalModels", lambda *arguments, **options: none)
    targets = [{"kind": "arm", "arm": arm} for arm in ("input", "gated")]
    with pytest.raises(AdapterError):
        carry_out(write(folder, targets))
    assert none.opened == []
    carry_out(write(folder, targets[:1]))
