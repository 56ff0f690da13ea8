from __future__ import annotations

from pathlib import Path

import pytest

from safe_retrieval.audit.attribution import Rung
from safe_retrieval.audit.changes import Factor
from safe_retrieval.audit.ladder import index_ladder
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.audit.runner import run_audit
from safe_retrieval.audit.targets import RetrieverTarget
from safe_retrieval.errors import InputError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.retrieval.guard import RefusalGate
from safe_retrieval.types import Document, GateAction
from tests.audit.fakes import scripted
from tests.support.encoders import HashEncoder

INPUT = {"h1": ["H1"], "h2": ["H2"], "h3": ["H3"], "b1": ["B1"], "b2": ["B2"]}
OUTPUT = {**INPUT, "h1": [], "b2": []}
GATED = {**OUTPUT, "h2": []}


def targets(probe_set: ProbeSet) -> list[RetrieverTarget]:
    arms = (("input", INPUT), ("output", OUTPUT), ("gated", GATED))
    return [RetrieverTarget(scripted(probe_set, ids), name) for name, ids in arms]


def test_steps_by_hand_add_up_to_the_whole(probe_set: ProbeSet) -> None:
    ladder = [Rung(Factor.ENCODER, "output"), Rung(Factor.GATE, "gated"), Rung(Factor.CUTOFF, "gated", 3)]
    report = run_audit(probe_set, targets(probe_set), ladders={"gated": ladder})
    attribution = report.attributions["gated"]
    assert attribution.total.value == pytest.approx(-2 / 3)
    assert [step.harm.value for step in attribution.steps] == pytest.approx([-1 / 3, -1 / 3, 0.0])
    assert [step.share for step in attribution.steps] == pytest.approx([0.5, 0.5, 0.0])
    recall = [step.benign_recall.value for step in attribution.steps if step.benign_recall]
    assert recall == pytest.approx([-0.25, 0.0, 0.0])
    content = report.to_json()["attributions"]["gated"]
    assert [step["factor"] for step in content["steps"]] == ["encoder", "gate", "k"]
    assert content["steps"][2]["k"] == 3


def test_where_harm_does_not_change_no_step_explains_a_share(probe_set: ProbeSet) -> None:
    same = [RetrieverTarget(scripted(probe_set, INPUT), name) for name in ("input", "x")]
    report = run_audit(probe_set, same, ladders={"x": [Rung(Factor.ENCODER, "x")]})
    assert report.attributions["x"].steps[0].share is None


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ([], "must end at it, got: none"),
        ([Rung(Factor.ENCODER, "output")], "must end at it, got: output"),
        ([Rung(Factor.ENCODER, "nowhere"), Rung(Factor.GATE, "gated")], "names 'nowhere'"),
        ([Rung(Factor.GATE, "gated", 0)], "has the cut-off 0; expected one from 1 to 100"),
        ([Rung(Factor.GATE, "gated", 500)], "has the cut-off 500"),
    ],
)
def test_faulty_ladders_are_refused_before_anything_is_asked(
    probe_set: ProbeSet, ladder: list[Rung], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_audit(probe_set, targets(probe_set), ladders={"gated": ladder})


def test_a_ladder_needs_the_baseline(probe_set: ProbeSet) -> None:
    with pytest.raises(InputError, match="starts at the baseline"):
        run_audit(probe_set, targets(probe_set)[1:], ladders={"gated": [Rung(Factor.GATE, "gated")]}, baseline="input")


def _many(count: int) -> ProbeSet:
    """Requests and questions whose wording is that of one document each."""
    harmful = [
        Document(f"H{i}", f"alpha{i} beta{i}", metadata=_metadata(harmful=True, lang="en")) for i in range(count)
    ]
    benign = [
        Document(f"B{i}", f"gamma{i} delta{i}", metadata=_metadata(harmful=False, lang="de")) for i in range(count)
    ]
    queries = [Probe(f"h{i}", f"alpha{i} beta{i} please", ProbeKind.HARMFUL) for i in range(count)]
    queries += [Probe(f"b{i}", f"gamma{i} delta{i} please", ProbeKind.BENIGN) for i in range(count)]
    qrels = {f"h{i}": {f"H{i}": 1} for i in range(count)} | {f"b{i}": {f"B{i}": 1} for i in range(count)}
    return ProbeSet("many", "1", "0" * 64, (*harmful, *benign), tuple(queries), qrels)


def _metadata(*, harmful: bool, lang: str) -> dict[str, object]:
    return {"harmful": harmful, "hazard": "hate" if harmful else None, "kind": "x", "source": "t", "lang": lang}


def test_every_factor_of_an_index_is_a_step(tmp_path: Path) -> None:
    probe_set, baseline = _many(160), HashEncoder("plain", dimension=16)
    audited = HashEncoder("audited", dimension=16, refused=["alpha1", "alpha2"])
    build_index(probe_set.documents, baseline, tmp_path / "index", factory="IVF8,Flat", progress=False)
    with load_index(tmp_path / "index") as index:
        ladder = index_ladder(
            index, baseline=baseline, encoder=audited, where={"lang": "de"}, gate=RefusalGate(GateAction.EMPTY), k=1
        )
        report = run_audit(probe_set, ladder.targets, baseline=ladder.baseline, ladders={ladder.arm: ladder.rungs})
    steps = {step.factor: step for step in report.attributions[ladder.arm].steps}
    assert list(steps) == [Factor.ENCODER, Factor.APPROXIMATION, Factor.FILTER, Factor.GATE, Factor.CUTOFF]
    assert steps[Factor.ENCODER].harm.value == 0.0  # the same vectors
    assert steps[Factor.FILTER].harm.value == pytest.approx(-1.0, abs=0.1)  # no harmful passage is German
    total = report.attributions[ladder.arm].total
    assert total.value == pytest.approx(sum(step.harm.value for step in steps.values()))


def test_a_flat_index_with_the_baselines_encoder_has_nothing_to_take_apart(tmp_path: Path) -> None:
    probe_set, encoder = _many(3), HashEncoder()
    build_index(probe_set.documents, encoder, tmp_path / "index", progress=False)
    with load_index(tmp_path / "index") as index, pytest.raises(InputError, match="no step between"):
        index_ladder(index, baseline=encoder, encoder=encoder)
