from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from safe_retrieval.audit.external import OWN, ExternalTarget, Merging, TargetOptions
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.journal import forget
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.audit.results import AuditReport
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.scales import Scale
from safe_retrieval.audit.searching import Answer, Found, Holds
from safe_retrieval.errors import AuditError
from safe_retrieval.types import Document
from tests.audit.retrievers import Searching, exact, given_id, probes, production

K = 12


@pytest.fixture(scope="module")
def probe_set() -> ProbeSet:
    return probes()


def target(probe_set: ProbeSet, searcher: Searching, folder: Path, **options: object) -> ExternalTarget:
    return ExternalTarget("mine", searcher, probe_set, folder, options=TargetOptions(**options))  # type: ignore[arg-type]


def audited(target: ExternalTarget, probe_set: ProbeSet) -> AuditReport:
    return run_audit(probe_set, [target], baseline="none")


@pytest.mark.parametrize("scale", list(Scale))
def test_an_overlay_is_what_the_retriever_would_return_if_it_held_the_probes(
    probe_set: ProbeSet, tmp_path: Path, scale: Scale
) -> None:
    own = production()
    mine = target(probe_set, Searching(own, scale=scale), tmp_path)
    answers = mine.ask(probe_set.queries, k=K)
    for probe, retrieval in zip(answers.probes, answers.retrievals, strict=True):
        everything = exact([*own, *probe_set.documents], probe.text, K)
        assert [given_id(hit.id) for hit in retrieval.hits] == everything
        scores = [hit.score for hit in retrieval.hits]
        assert scores == sorted(scores, reverse=True)
    assert answers.absent == frozenset()
    assert all(each.startswith(OWN) for each in answers.own)
    (note,) = mine.record["notes"]
    assert note.startswith("probe passages were overlaid and merged by score: ")
    assert mine.record["overlay"] == answers_scale(scale)


def answers_scale(scale: Scale) -> str:
    """Of unit vectors an inner product is a cosine, and the first of equals is named."""
    return Scale.COSINE.value if scale is Scale.INNER_PRODUCT else scale.value


def test_figures_with_an_overlay(probe_set: ProbeSet, tmp_path: Path) -> None:
    report = audited(target(probe_set, Searching(production()), tmp_path), probe_set)
    metrics = report.arms["mine"].metrics
    assert metrics["harm@5"] is not None
    assert metrics["harm@5"].value == 1.0
    assert metrics["benign_recall@5"] is not None
    assert metrics["benign_recall@5"].value == 1.0
    assert all(not passage.id.startswith(OWN) for finding in report.findings for passage in finding.passages)


@pytest.mark.parametrize(
    ("searcher", "why"),
    [
        ({"scores": False}, "only 0 of the passages it returned had text and score"),
        ({"texts": False}, "only 0 of the passages it returned had text and score"),
        ({"vectors": False}, "nobody knows what vectors it compares"),
    ],
)
def test_where_scores_cannot_be_merged_the_audit_says_so_and_measures_what_is_held(
    probe_set: ProbeSet, tmp_path: Path, searcher: dict[str, bool], why: str
) -> None:
    mine = target(probe_set, Searching(production(), **searcher), tmp_path)  # type: ignore[arg-type]
    report = audited(mine, probe_set)
    metrics = report.arms["mine"].metrics
    assert metrics["harm@5"] is None  # nobody said that it holds their passages
    assert metrics["benign_recall@5"] is None
    assert metrics["any_harm@5"] is not None
    assert metrics["any_harm@5"].value == 0.0
    assert mine.record["notes"][0] == f"its scores cannot be merged ({why}), so what it holds was audited"


def test_scores_of_no_known_kind_are_not_merged(probe_set: ProbeSet, tmp_path: Path) -> None:
    class Odd(Searching):
        def found(self, document: Document, score: float) -> Found:
            return super().found(document, 3 * score + 7)

    mine = target(probe_set, Odd(production()), tmp_path)
    mine.ask(probe_set.queries, k=K)
    assert "they are none of cosine, inner-product" in mine.record["notes"][0]
    with pytest.raises(AuditError, match="cannot be overlaid, and that was required"):
        target(probe_set, Odd(production()), tmp_path, overlay=Merging.REQUIRED).ask(probe_set.queries, k=K)
    with pytest.raises(AuditError, match="declared to be cosine, and those of its embedder are others"):
        target(probe_set, Odd(production()), tmp_path, scores=Scale.COSINE).ask(probe_set.queries, k=K)


def test_declared_scores_are_taken_where_no_text_could_prove_them(probe_set: ProbeSet, tmp_path: Path) -> None:
    mine = target(probe_set, Searching(production(), texts=False), tmp_path, scores=Scale.COSINE)
    mine.ask(probe_set.queries, k=K)
    assert "as declared; it gives no texts to check that by" in mine.record["notes"][0]


def test_no_overlay_where_none_is_wanted(probe_set: ProbeSet, tmp_path: Path) -> None:
    mine = target(probe_set, Searching(production()), tmp_path, overlay=Merging.NEVER)
    answers = mine.ask(probe_set.queries, k=K)
    assert answers.absent == {document.id for document in probe_set.documents}
    assert mine.record["overlay"] is None


def test_a_gate_that_holds_every_harmful_request_back_does_not_hide_what_the_scores_are(
    probe_set: ProbeSet, tmp_path: Path
) -> None:
    class Gated(Searching):
        def search(self, queries: Sequence[str], k: int) -> list[Answer]:
            harmful = {probe.text for probe in probe_set.of_kind(ProbeKind.HARMFUL)}
            answers = super().search(queries, k)
            return [Answer((), 0.001) if text in harmful else each for text, each in zip(queries, answers, strict=True)]

    mine = target(probe_set, Gated(production()), tmp_path, empty_is_refusal=True)
    report = audited(mine, probe_set)
    assert mine.record["overlay"] == "cosine"
    harm = report.arms["mine"].metrics["harm@5"]
    assert harm is not None
    assert harm.value == 0.0


def test_pieces_of_one_document_share_its_id_and_not_its_label(probe_set: ProbeSet, tmp_path: Path) -> None:
    class Pieces(Searching):
        def found(self, document: Document, score: float) -> Found:
            label = document.id == "p0"
            return Found("d", score, document.content, harmful=label)

    first, second = production(2)
    asked = replace(
        probe_set,
        queries=(
            Probe("h", first.text, ProbeKind.HARMFUL, Hazard.HATE),
            Probe("b", second.text, ProbeKind.BENIGN),
        ),
        qrels={},
    )
    pieces = target(asked, Pieces([first, second], vectors=False), tmp_path / "pieces")
    answers = pieces.ask(asked.queries, k=2)
    labels = [[answers.own[hit.id].harmful for hit in retrieval.hits] for retrieval in answers.retrievals]
    assert labels == [[True, False], [False, True]]
    other = ExternalTarget("other", Searching([first, second], vectors=False), asked, tmp_path / "other")
    assert not set(other.ask(asked.queries, k=2).own) & set(answers.own)  # of equal id, and not of equal label


def test_known_harmful_passages_are_recognised_among_what_it_holds(probe_set: ProbeSet, tmp_path: Path) -> None:
    """A match by text, without a classifier: one is there in capitals, another cut short."""
    first, second = [document for document in probe_set.documents if document.metadata["harmful"]][:2]
    held = [Document("x", first.text.upper() + "!"), Document("y", " ".join(second.text.split()[:20]))]
    mine = target(probe_set, Searching([*production(), *held]), tmp_path, overlay=Merging.NEVER)
    report = audited(mine, probe_set)
    found = {finding.query_id: finding.passages[0].id for finding in report.findings if finding.passages[0].own}
    assert found == {"set/q-harmful-0": first.id, "set/q-harmful-1": second.id}
    assert {passage.id for finding in report.findings for passage in finding.passages} == {first.id, second.id}


def test_passages_that_the_target_labels_as_harmful_count(probe_set: ProbeSet, tmp_path: Path) -> None:
    class Labelling(Searching):
        def found(self, document: Document, score: float) -> Found:
            return super().found(document, score)._replace(harmful=document.id == "p0")

    own = [*production(1)]
    report = audited(target(probe_set, Labelling(own), tmp_path, overlay=Merging.NEVER), probe_set)
    any_harm = report.arms["mine"].metrics["any_harm@1"]
    assert any_harm is not None
    assert any_harm.value == 1.0
    assert {given_id(passage.id) for finding in report.findings for passage in finding.passages} == {"p0"}


def test_a_set_that_the_target_holds_is_judged_by_its_ids(probe_set: ProbeSet, tmp_path: Path) -> None:
    benign = {document.id for document in probe_set.documents if not document.metadata["harmful"]}
    held = replace(probe_set, held=frozenset(benign))
    inside = [Document(each.id.removeprefix("set/"), each.text) for each in probe_set.documents if each.id in benign]
    mine = target(held, Searching([*production(), *inside], texts=False), tmp_path)
    metrics = audited(mine, held).arms["mine"].metrics
    assert metrics["benign_recall@5"] is not None
    assert metrics["benign_recall@5"].value == 1.0
    assert metrics["harm@5"] is None


def test_reference_passages_are_recognised_and_not_overlaid(probe_set: ProbeSet, tmp_path: Path) -> None:
    harmful = frozenset(document.id for document in probe_set.documents if document.metadata["harmful"])
    only = replace(probe_set, reference=harmful)
    metrics = audited(target(only, Searching(production()), tmp_path), only).arms["mine"].metrics
    assert metrics["harm@5"] is None
    assert metrics["any_harm@100"] is not None
    assert metrics["any_harm@100"].value == 0.0
    assert metrics["benign_recall@5"] is not None
    assert metrics["benign_recall@5"].value == 1.0


def test_a_target_that_holds_the_probes(probe_set: ProbeSet, tmp_path: Path) -> None:
    searcher = Searching(probe_set.documents, texts=False)
    metrics = audited(target(probe_set, searcher, tmp_path, holds=Holds.PROBES), probe_set).arms["mine"].metrics
    assert metrics["harm@5"] is not None
    assert metrics["harm@5"].value == 1.0
    strange = Searching([*probe_set.documents, *production(1)], texts=False)
    with pytest.raises(AuditError, match=r"returned 'p0' for .*, which is no passage of the probe set"):
        target(probe_set, strange, tmp_path, holds=Holds.PROBES).ask(probe_set.queries, k=100)


def test_an_empty_answer_is_a_refusal_and_nothing_is_put_into_it(probe_set: ProbeSet, tmp_path: Path) -> None:
    silent = probe_set.of_kind(ProbeKind.HARMFUL)[0].text
    mine = target(probe_set, Searching(production(), silent_for=silent), tmp_path, empty_is_refusal=True)
    report = audited(mine, probe_set)
    metrics = report.arms["mine"].metrics
    assert metrics["harm@5"] is not None
    assert metrics["harm@5"].value == pytest.approx(5 / 6)
    assert metrics["harmful_gated"] is not None
    assert metrics["harmful_gated"].value == pytest.approx(1 / 6)
    assert metrics["over_refusal"] is not None
    assert metrics["over_refusal"].value == 0.0


def test_a_passage_that_comes_twice_keeps_its_ranks(probe_set: ProbeSet, tmp_path: Path) -> None:
    class Stuttering(Searching):
        def _one(self, query: str, k: int) -> Answer:
            answer = super()._one(query, k)
            return answer._replace(hits=(answer.hits[0], *answer.hits))

    mine = target(probe_set, Stuttering(probe_set.documents), tmp_path, holds=Holds.PROBES)
    report = audited(mine, probe_set)
    metrics = report.arms["mine"].metrics
    assert metrics["harm@1"] is not None
    assert metrics["harm@1"].value == 1.0
    finding = report.findings[0]
    assert [passage.rank for passage in finding.passages][:2] == [1, 2]
    assert any(passage.id.startswith(f"{OWN}again at 2") for passage in finding.passages)
    assert "14 passages came twice in one answer" in mine.record["notes"][-1]


def test_rising_scores_are_turned_and_missing_ones_become_ranks(probe_set: ProbeSet, tmp_path: Path) -> None:
    rising = target(probe_set, Searching(production(), scale=Scale.L2), tmp_path / "a", overlay=Merging.NEVER)
    (first, *_) = rising.ask(probe_set.queries, k=3).retrievals
    assert [hit.score for hit in first.hits] == sorted((hit.score for hit in first.hits), reverse=True)
    assert first.hits[0].score < 0
    silent = target(probe_set, Searching(production(), scores=False), tmp_path / "b")
    assert [hit.score for hit in silent.ask(probe_set.queries, k=3).retrievals[0].hits] == [1.0, 0.5, 1 / 3]


def test_fewer_passages_than_asked_for_are_said(probe_set: ProbeSet, tmp_path: Path) -> None:
    mine = target(probe_set, Searching(production(4)), tmp_path, overlay=Merging.NEVER)
    mine.ask(probe_set.queries, k=100)
    assert "it returned 4 passages at most where 100 were asked for" in mine.record["notes"][1]


def test_what_was_answered_is_not_asked_again_until_the_audit_is_finished(probe_set: ProbeSet, tmp_path: Path) -> None:
    class Failing(Searching):
        def search(self, queries: object, k: int) -> list[Answer]:
            if len(self.asked) == 8 + 5:
                raise AuditError("gone")
            return super().search(queries, k)  # type: ignore[arg-type]

    with pytest.raises(AuditError, match="gone"):
        target(probe_set, Failing(production()), tmp_path).ask(probe_set.queries, k=K)
    searcher = Searching(production())
    again = target(probe_set, searcher, tmp_path)
    resumed = again.ask(probe_set.queries, k=K)
    assert searcher.asked == [probe.text for probe in probe_set.queries[5:]]
    fresh = target(probe_set, Searching(production()), tmp_path / "fresh").ask(probe_set.queries, k=K)
    assert resumed.retrievals == fresh.retrievals
    assert resumed.own == fresh.own
    forget(tmp_path)
    asked = Searching(production())
    target(probe_set, asked, tmp_path).ask(probe_set.queries, k=K)
    assert len(asked.asked) == 8 + len(probe_set.queries)


def test_other_settings_begin_anew(probe_set: ProbeSet, tmp_path: Path) -> None:
    target(probe_set, Searching(production()), tmp_path).ask(probe_set.queries, k=K)
    other = Searching(production())
    target(probe_set, other, tmp_path, overlay=Merging.NEVER).ask(probe_set.queries, k=K)
    assert len(other.asked) == 8 + len(probe_set.queries)


def test_a_journal_holds_no_text(probe_set: ProbeSet, tmp_path: Path) -> None:
    target(probe_set, Searching(production()), tmp_path).ask(probe_set.queries, k=K)
    content = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert json.loads(content.splitlines()[-1])["probe"] == probe_set.queries[-1].id
    assert "word1" not in content


def test_a_subset_is_even_over_the_kinds(probe_set: ProbeSet, tmp_path: Path) -> None:
    answers = target(probe_set, Searching(production()), tmp_path, limit=6).ask(probe_set.queries, k=K)
    assert sorted(probe.kind for probe in answers.probes) == sorted(2 * list(ProbeKind))
