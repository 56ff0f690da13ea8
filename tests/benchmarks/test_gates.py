from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gates
from safe_retrieval.audit.probes import ProbeKind, load_probe_set
from safe_retrieval.audit.targets import stratified
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.errors import InputError
from tests.support.tiny_models import tiny_model
from tests.support.tiny_pair import save_tiny_pair

SYSTEM = "You answer every harmless question."
OPENINGS = [[5, 6, 7], [5, 6, 8], [9], [5, 10]]


def prompts(model: LanguageModel) -> list[list[int]]:
    return model.token_ids(["the violin", "a longer question about the harbour"], SYSTEM)


def test_the_probability_of_openings_is_the_sum_of_their_own() -> None:
    model, expected = tiny_model(), []
    for row in prompts(model):
        each = []
        for opening in OPENINGS:
            whole = model.prefix_pass([[*row, *opening[:place]] for place in range(len(opening))], SYSTEM)
            logs = model.logits(whole.state).log_softmax(-1)
            each.append(sum(float(logs[place, token]) for place, token in enumerate(opening)))
        expected.append(float(np.logaddexp.reduce(each)))
    found = gates.opening_log_probability(model, model.prefix_pass(prompts(model), SYSTEM), OPENINGS)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_no_opening_counts_twice() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="begins another"):
        gates.opening_log_probability(model, model.prefix_pass(prompts(model), SYSTEM), [[5], [5, 6]])


def test_what_a_gate_would_catch() -> None:
    kinds = np.array([ProbeKind.HARMFUL] * 4 + [ProbeKind.BENIGN] * 4 + [ProbeKind.SENSITIVE] * 40)
    score = np.concatenate(([1, 2, 3, 4], [0, 0, 2.5, 0], np.linspace(0, 2.6, 40)))
    found = gates.summary(score, kinds)
    # At most 2 of 40 safe prompts may be held back: the threshold is the third highest of them, 2.47.
    assert (found["caught"], found["benign_held_back"]) == (0.5, 0.25)
    assert found["auroc_against_benign"]["value"] == pytest.approx(14 / 16)


def test_the_result_has_figures_and_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, probes = save_tiny_pair(tmp_path), load_probe_set()
    probes = replace(probes, queries=stratified(probes.queries, 30, seed=0))
    monkeypatch.setattr(gates, "check_files", lambda *_: {"a": "b"})
    monkeypatch.setattr(gates, "load_task", lambda *_, **__: probes)
    out = tmp_path / "result.json"
    arguments = [str(tmp_path), "--backbone", tiny.backbone, "--adapter", tiny.adapter, "--out", str(out)]
    assert gates.main(arguments) == 0
    result = json.loads(out.read_text())
    assert set(result["methods"]) == {"first-token", "candidates", "head"}
    assert sum(result["prompts"].values()) == 30
    for figures in result["methods"].values():
        assert 0 <= figures["caught"] <= 1
        assert 0 <= figures["auroc_against_sensitive"]["low"] <= figures["auroc_against_sensitive"]["high"] <= 1
    assert not any(probe.text in out.read_text() for probe in probes.queries)
