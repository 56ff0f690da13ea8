from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters
from safe_retrieval.errors import AdapterFormatError
from safe_retrieval.training.card import card, write_card
from safe_retrieval.training.checkpoint import Position
from safe_retrieval.training.log import TrainingLog
from safe_retrieval.training.phases import PHASES
from tests.support.adapters import record_for, save_random_adapter
from tests.support.tiny_models import tiny_model

TRAINING = {
    "queries": 8064,
    "queries_by_source": {"clinc150": 64, "own": 8000},
    "held_out_queries": 256,
    "refused_share": 0.113,
    "responses_sha256": "sha256:responses",
    "seed": 3,
    "settings": {"loss": {"reconstruction_share": 0.12}},
    "held_out": {"cosine": 0.5678, "own_response": 0.8125, "reconstruction": None},
    "versions": {"torch": "2.0"},
    "kept_apart": True,
    "gate": {"0.75": {"refused": 0.9, "answered": 0.02, "answered_by_source": {"clinc150": 0.01, "own": 0.021}}},
}


def test_everything_is_from_the_record() -> None:
    record = record_for(tiny_model()).model_copy(update={"training": TRAINING, "weights_sha256": "sha256:weights"})
    text = card(record, 12345)
    for fact in (
        "12,345 parameters",
        "| 0.75 | 90.0 % | 2.0 % | 1.0 % | 2.1 % |",
        "8,064 unlabelled queries",
        "11.3 % of the responses refuse",
        "No query repeats one that is evaluated on",
        "| clinc150 | 64 | CLINC150, CC BY 3.0 |",
        "| own | 8,000 | not known |",
        "| loss.reconstruction_share | `0.12` |",
        "| 0.568 |",
        "| 81.2 % |",
        "| not measured |",
        "`sha256:weights`",
        "`sha256:responses`",
        "torch 2.0",
        record.policy.system_prompt,
        record.policy.policy.sha256,
        record.template_sha256,
        record.teacher.space,
    ):
        assert fact in text, fact
    assert "Held-out figures while" not in text


def test_it_says_whose_answers_are_foreseen() -> None:
    record = record_for(tiny_model())
    own = card(record.model_copy(update={"training": TRAINING}), 1)
    assert "the answer that the\nmodel *would* write" in own
    assert "the backbone's own greedy response" in own
    assert "that the backbone refuses" in own
    answered = {**TRAINING, "answered_by": {"name": "larger", "fingerprint": "sha256:larger"}}
    other = card(record.model_copy(update={"training": answered}), 1)
    assert "the answer that larger, whose\nanswers taught it, *would* write" in other
    assert "larger's greedy response" in other
    assert "that the model that answered refuses" in other
    assert "The verdict is that of larger" in other
    assert "`sha256:larger`" in other


def test_it_says_where_tokens_come_from_and_what_they_can_be_read_back_as() -> None:
    record = record_for(tiny_model())
    origin = {"adapter": "sha256:origin", "queries": 1234}
    larger = {"answered_by": {"name": "larger", "fingerprint": "sha256:larger"}}

    def told(**training: object) -> str:
        return card(record.model_copy(update={"training": {**TRAINING, **training}}), 1)

    plain = told(tokens_from=origin)
    assert "They were for the alignment and the refusal head. Tokens and reconstruction head are those" in plain
    assert "`sha256:origin`, trained on 1,234 queries, which" in plain
    assert "trained on 1,234 queries under the policy `other`, which" in told(tokens_from={**origin, "policy": "other"})
    for same in (plain, told(tokens_from={**origin, **larger}, **larger)):
        assert "text that is decoded" not in same
    judge = {"name": "judge", "queries": 1, "queries_by_source": {}, "refused_share": 0.1, "kept_apart": True}
    judged = told(tokens_from=origin, judge={**judge, "fingerprint": "f", "adapter": "a", "policy": "p"})
    assert "They were for the alignment head. Tokens" in judged
    assert "what\njudge under the policy `p` would refuse" in judged
    assert "The verdict is that of judge under the policy `p`. What" in judged
    assert "before the judge's" not in judged  # no mixture: its vectors have nothing to do with the refusal head
    record = record.model_copy(update={"shape": record.shape.model_copy(update={"mixture": True})})
    assert "before the judge's" in told(judge={**judge, "fingerprint": "f", "adapter": "a", "policy": "p"})
    assert f"A text that is decoded is one that {record.backbone.name} would answer." in told(
        tokens_from=origin, **larger
    )


def test_licences_come_from_the_catalog() -> None:
    record = record_for(tiny_model())
    known = record.model_copy(
        update={"backbone": record.backbone.model_copy(update={"name": "qwen2.5-coder-0.5b-instruct"})}
    )
    assert "qwen2.5-coder-0.5b-instruct (Apache-2.0)" in card(known, 1)
    assert "tiny-qwen2-0 (licence: see the model)" in card(record, 1)


def test_an_untrained_adapter_has_a_card_too(tmp_path: Path) -> None:
    save_random_adapter(tmp_path, tiny_model())
    text = write_card(tmp_path).read_text()
    assert "not measured" in text
    assert "| nan |" not in text
    assert text.count("None") == 1  # the dtype


def test_the_course_of_a_run_is_thinned_out(tmp_path: Path) -> None:
    save_random_adapter(tmp_path, tiny_model())
    log = TrainingLog(tmp_path / "log.jsonl", None, PHASES)
    for step in range(40):
        log.write(Position("heads", step), epoch=step + 1, held_out={"cosine": step / 100, "own_response": 0.5})
    before = write_card(tmp_path).read_text()
    log.write(Position("refusal", 1), method="m", refusal_auroc=0.9, calibration_error=0.01)
    assert write_card(tmp_path).read_text() == before  # logs with its line and older ones without make the same table
    rows = [line for line in before.splitlines() if line.startswith("| heads |")]
    assert 3 <= len(rows) <= 9
    assert rows[0] == "| heads | 1 | 0.000 | 50.0 % | not measured |"
    assert rows[-1].startswith("| heads | 40 | 0.390 |")


def test_calibration_stands_where_it_was_measured() -> None:
    record = record_for(tiny_model())
    found = {"error": 0.0123, "near_half": 1200, "foretold_near_half": 0.497, "refused_near_half": 0.512}
    assert "calibration error" not in card(record, 1)
    text = card(record.model_copy(update={"training": {"calibration": found}}), 1)
    assert "| its expected calibration error, 10 bins of equal count, cross-validated | 0.012 |" in text
    assert "| queries given 0.4 to 0.6: mean probability, share refused | 49.7 %, 51.2 % of 1,200 |" in text
    none = {**found, "near_half": 0, "foretold_near_half": None, "refused_near_half": None}
    assert "| there are none |" in card(record.model_copy(update={"training": {"calibration": none}}), 1)


@pytest.mark.parametrize("name", shipped_adapters())
def test_a_shipped_card_is_what_its_record_makes(name: str) -> None:
    folder = shipped_adapter(*name.split("--"))
    loaded = load_adapter(folder)
    parameters = sum(parameter.numel() for parameter in loaded.adapter.parameters())
    before, _, rest = (folder / "README.md").read_text(encoding="utf-8").partition("Held-out figures while")
    course, _, after = rest.partition("## Limits")
    assert card(loaded.record, parameters) == f"{before}## Limits{after}"
    # The run's log is not shipped, but the last lines of its table are in the record.
    held_out = loaded.record.training["held_out"]
    assert f"| {held_out['cosine']:.3f} |" in course
    assert f"| {held_out['reconstruction']:.3f} |" in course


def test_a_damaged_adapter_gets_no_card(tmp_path: Path) -> None:
    save_random_adapter(tmp_path, tiny_model())
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(AdapterFormatError):
        write_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    save_random_adapter(tmp_path, tiny_model())
    monkeypatch.setattr(sys, "argv", ["card", str(tmp_path)])
    monkeypatch.delitem(sys.modules, card.__module__)
    runpy.run_module("safe_retrieval.training.card", run_name="__main__")
    assert capsys.readouterr().out.strip() == str(tmp_path / "README.md")
