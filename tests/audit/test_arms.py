from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from safe_retrieval.audit import encodings
from safe_retrieval.audit.arms import audit_arms, ladders_of
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.audit.report.reveal import WARNING
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.targets import AuditArm
from safe_retrieval.encoder.blend import BlendWeight
from safe_retrieval.errors import AdapterError, AuditError, EncoderMismatchError, InputError
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD
from safe_retrieval.types import QueryEncoding
from tests.audit.fakes import FakeModels, NoAdapter, RecordingEncoder

ALL = list(AuditArm)


def encoded(models: FakeModels) -> dict[str, int]:
    """Queries that each opened encoder was given."""
    counts = {}
    for name in models.opened:
        encoder = getattr(models, name).encoder
        assert isinstance(encoder, RecordingEncoder)
        counts[name] = len(encoder.encoded)
    return counts


def figures(report: AuditReport) -> dict[str, object]:
    """All of a report but its clock."""
    content = report.to_json()
    del content["provenance"]["time"]
    for arm in content["arms"].values():
        del arm["queries_per_second"], arm["seconds"], arm["latency_ms"]
    return content


def test_all_arms_share_one_pass_of_each_encoder(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = FakeModels()
    report = audit_arms(probe_set, ALL, out=tmp_path / "out", models=models)
    assert list(report.arms) == ["input", "output", "blend", "gated", "hyde", "bm25"]
    assert encoded(models) == {"document": 10, "response": 10, "hyde": 10}
    assert models.document.encoder.document_calls == [  # type: ignore[attr-defined]
        [document.content for document in probe_set.documents]
    ]


def test_arms_are_built_as_their_names_say(tmp_path: Path, probe_set: ProbeSet) -> None:
    report = audit_arms(probe_set, ALL, out=tmp_path / "out", models=FakeModels())
    gated = report.arms["gated"].metrics
    assert gated["harmful_gated"] is not None
    assert gated["harmful_gated"].value == 1.0
    assert gated["any_harm@20"] is not None
    assert gated["any_harm@20"].value == 0.0
    assert gated["over_refusal"] is not None
    assert gated["over_refusal"].value == 0.0
    for ungated in ("input", "output", "blend", "hyde", "bm25"):
        assert report.arms[ungated].metrics["over_refusal"] is None
    for judging in ("output", "blend", "gated", "hyde"):
        auroc = report.arms[judging].metrics["refusal_auroc_benign"]
        assert auroc is not None
        assert auroc.value == 1.0
    assert report.arms["input"].metrics["refusal_auroc_benign"] is None
    assert set(report.comparisons) == {"output", "blend", "gated", "hyde", "bm25"}


def test_a_blend_is_mixed_as_the_adapter_says(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = FakeModels()
    models.blend_weight = BlendWeight(answered=1.0)  # so much that nothing of the query's own vector is left
    report = audit_arms(probe_set, ALL, out=tmp_path / "out", models=models)
    assert report.to_json()["provenance"]["blend"]["answered"] == 1.0
    blend, output = report.arms["blend"].metrics, report.arms["output"].metrics
    assert dict(blend) == {name: output[name] for name in blend}


def test_provenance_names_what_was_used_and_nothing_else(tmp_path: Path, probe_set: ProbeSet) -> None:
    used = audit_arms(probe_set, ALL, out=tmp_path / "out", models=FakeModels(), seed=9).to_json()["provenance"]
    assert used["document_encoder"] == {"name": "document", "space": "fake"}
    assert used["gate"] == {"action": "empty", "threshold": DEFAULT_THRESHOLD}
    assert {
        "response_encoder",
        "hyde_encoder",
        "blend",
        "index",
        "packages",
        "python",
        "cpu",
        "threads",
        "time",
    } <= set(used)
    assert len(used["index"]["sha256"]) == 64
    assert used["seed"] == 9
    lexical = audit_arms(probe_set, [AuditArm.BM25], out=tmp_path / "bm25", models=FakeModels()).provenance
    assert not {"document_encoder", "response_encoder", "gate", "blend", "index"} & set(lexical)


@pytest.mark.parametrize(
    ("arms", "opened"),
    [
        ([AuditArm.BM25], []),
        ([AuditArm.INPUT, AuditArm.BM25], ["document"]),
        ([AuditArm.HYDE], ["document", "hyde"]),
        ([AuditArm.GATED], ["document", "response"]),
    ],
)
def test_an_arm_opens_only_what_it_needs(
    tmp_path: Path, probe_set: ProbeSet, arms: list[AuditArm], opened: list[str]
) -> None:
    models = FakeModels()
    report = audit_arms(probe_set, arms, out=tmp_path / "out", models=models)
    assert sorted(models.opened) == opened
    assert list(report.arms) == [arm.value for arm in arms]


def test_an_adapter_that_is_not_there_shows_before_anything_is_encoded(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = NoAdapter()
    with pytest.raises(AdapterError):
        audit_arms(probe_set, [AuditArm.INPUT, AuditArm.GATED], out=tmp_path / "out", models=models)
    assert models.opened == []
    audit_arms(probe_set, [AuditArm.INPUT, AuditArm.BM25], out=tmp_path / "out", models=models)


def test_a_second_audit_encodes_nothing_and_says_the_same(tmp_path: Path, probe_set: ProbeSet) -> None:
    first = audit_arms(probe_set, ALL, out=tmp_path / "out", models=FakeModels())
    models = FakeModels()
    second = audit_arms(probe_set, ALL, out=tmp_path / "out", models=models)
    assert encoded(models) == {"document": 0, "response": 0, "hyde": 0}
    assert models.document.encoder.document_calls == []  # type: ignore[attr-defined]
    assert figures(first) == figures(second)
    assert second.arms["output"].encode_seconds == pytest.approx(first.arms["output"].encode_seconds)


class _CutError(Exception):
    pass


class _CutEncoder(RecordingEncoder):
    """Breaks off after some queries, as a killed process would."""

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        if len(self.encoded) >= 4:
            raise _CutError
        return super().encode(texts)


def test_a_cut_audit_goes_on_at_the_chunk(tmp_path: Path, probe_set: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 4)
    cut = FakeModels()
    vars(cut)["response"] = replace(cut.response, encoder=_CutEncoder("response", refused=["request"]))
    with pytest.raises(_CutError):
        audit_arms(probe_set, ALL, out=tmp_path / "out", models=cut)
    assert not (tmp_path / "out" / "report.json").exists()
    models = FakeModels()
    resumed = audit_arms(probe_set, ALL, out=tmp_path / "out", models=models)
    assert encoded(models) == {"document": 0, "response": 6, "hyde": 10}
    whole = audit_arms(probe_set, ALL, out=tmp_path / "whole", models=FakeModels())
    assert figures(resumed) == figures(whole)
    assert (tmp_path / "out" / "findings.jsonl").read_bytes() == (tmp_path / "whole" / "findings.jsonl").read_bytes()


def test_hyde_is_asked_a_stratified_subset_and_its_n_says_so(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = FakeModels()
    report = audit_arms(probe_set, ALL, out=tmp_path, models=models, hyde_queries=6)
    assert dict(report.arms["hyde"].asked) == {ProbeKind.HARMFUL: 2, ProbeKind.BENIGN: 2, ProbeKind.SENSITIVE: 2}
    assert encoded(models)["hyde"] == 6
    recall = report.comparisons["hyde"].benign_recall
    assert recall is not None
    assert recall.difference.n == 2
    everything = audit_arms(probe_set, [AuditArm.HYDE], out=tmp_path, models=FakeModels(), hyde_queries=0)
    assert sum(everything.arms["hyde"].asked.values()) == 10


def test_a_negative_number_of_hyde_queries_raises(tmp_path: Path, probe_set: ProbeSet) -> None:
    with pytest.raises(InputError, match="got -1"):
        audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels(), hyde_queries=-1)


def test_an_arm_named_twice_raises(tmp_path: Path, probe_set: ProbeSet) -> None:
    with pytest.raises(InputError, match="each name once"):
        audit_arms(probe_set, [AuditArm.BM25, AuditArm.BM25], out=tmp_path, models=FakeModels())


def test_a_foreign_folder_is_refused_before_anything_is_opened(tmp_path: Path, probe_set: ProbeSet) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    models = FakeModels()
    with pytest.raises(AuditError, match=r"thesis\.txt"):
        audit_arms(probe_set, ALL, out=tmp_path, models=models)
    assert models.opened == []
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_output_holds_the_text_of_a_query_or_passage(
    tmp_path: Path, probe_set: ProbeSet, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {
        "report.json",
        "findings.jsonl",
        "index.html",
        "picture.svg",
        "junit.xml",
        "results.sarif",
        "summary.md",
    } <= {path.name for path in written}
    captured = capfd.readouterr()
    shown = [caplog.text.encode(), captured.out.encode(), captured.err.encode()]
    contents = [path.read_bytes().lower() for path in written] + shown
    for text in [probe.text for probe in probe_set.queries] + [document.text for document in probe_set.documents]:
        assert not any(text.lower().encode() in content for content in contents)
        rare = text.split()[-1].encode()  # a word that our own prose does not use
        assert not any(rare in content for content in contents)


def test_text_that_looks_like_markup_or_json_stays_out_as_well(tmp_path: Path, probe_set: ProbeSet) -> None:
    odd = Probe("h<script>alert(1)</script>", 'wording </svg><script>"', ProbeKind.HARMFUL)
    queries = (*probe_set.queries, odd)
    qrels = {**probe_set.qrels, odd.id: {"H1": 1}}
    audit_arms(replace(probe_set, queries=queries, qrels=qrels), ALL, out=tmp_path, models=FakeModels())
    page = (tmp_path / "index.html").read_text()
    assert page.count("<script") == 2  # the answers as data, and the page's own
    assert "<script>alert" not in page
    assert "</svg><script>" not in page
    rows = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert any(row["query_id"] == odd.id for row in rows)


def test_texts_are_revealed_on_request_alone_and_only_where_it_is_said(tmp_path: Path, probe_set: ProbeSet) -> None:
    audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels(), reveal=True)
    contents = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    texts = [probe.text for probe in probe_set.queries] + [document.text for document in probe_set.documents]
    showing = {name for name, content in contents.items() if any(text in content for text in texts)}
    assert showing == {"index.html", "findings.jsonl"}
    assert "<title>REVEALED" in contents["index.html"]
    assert WARNING in contents["index.html"]
    report = json.loads(contents["report.json"])
    assert report["revealed"] is True
    assert report["warning"] == WARNING
    assert "[!WARNING]" in contents["summary.md"]
    rows = [json.loads(line) for line in contents["findings.jsonl"].splitlines()]
    assert all(row["revealed"] for row in rows)
    assert all(row["query_text"] and row["passages"][0]["text"] for row in rows)
    audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels())
    contents = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert not any(text in content for content in contents.values() for text in texts)
    assert not any(WARNING in content for content in contents.values())


def test_arms_between_are_steps_of_a_ladder(tmp_path: Path, probe_set: ProbeSet) -> None:
    report = audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels())
    gated = report.attributions["gated"]
    assert [step.factor.value for step in gated.steps] == ["encoder", "blend", "gate"]
    assert sum(step.harm.value for step in gated.steps) == pytest.approx(gated.total.value)
    assert [step.factor.value for step in report.attributions["blend"].steps] == ["encoder", "blend"]
    assert list(ladders_of([AuditArm.INPUT, AuditArm.BLEND, AuditArm.GATED])) == ["gated"]
    assert ladders_of([AuditArm.BLEND, AuditArm.GATED]) == {}


def test_the_audit_before_can_be_the_baseline_also_in_the_same_folder(tmp_path: Path, probe_set: ProbeSet) -> None:
    audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels())
    report = audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels(), baseline=tmp_path)
    assert report.against is not None
    assert set(report.against.arms) == set(report.arms)
    assert all(not arm.surfaced and not arm.vanished for arm in report.against.arms.values())
    assert "Since the baseline report" in (tmp_path / "index.html").read_text()


def test_an_encoder_of_another_space_is_refused(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = FakeModels()
    models.response.encoder.space = "elsewhere"  # type: ignore[misc]
    with pytest.raises(EncoderMismatchError, match="encoded by document, and response speaks another vector space"):
        audit_arms(probe_set, [AuditArm.OUTPUT], out=tmp_path, models=models)


def test_wrong_options_fail_before_any_model_is_opened(tmp_path: Path, probe_set: ProbeSet) -> None:
    models = FakeModels()
    with pytest.raises(InputError, match="got 0"):
        audit_arms(probe_set, ALL, out=tmp_path, models=models, cutoffs=(0,))
    assert models.opened == []


def test_progress_is_told_of_every_encoding(tmp_path: Path, probe_set: ProbeSet) -> None:
    seen = []

    @contextmanager
    def watch(total: int, description: str) -> Iterator[Callable[[int], None]]:
        seen.append((description, total))
        yield lambda _: None

    audit_arms(probe_set, ALL, out=tmp_path, models=FakeModels(), progress=watch)
    assert seen == [
        ("Encoding passages", 8),
        ("Encoding queries, input", 10),
        ("Encoding queries, response", 10),
        ("Encoding queries, hyde", 10),
    ]
