"""Whole runs on a tiny backbone that is its own teacher: what they leave behind, and what happens when they are cut."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from safe_retrieval.backbone import language_model
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.policy import policy_from
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import ConfigError, DataError, TrainingError
from safe_retrieval.training import losses, phases, responses, trainer
from safe_retrieval.training.config import TrainingConfig, load_config
from safe_retrieval.training.log import read_log
from safe_retrieval.training.prefix_cache import PrefixCache
from safe_retrieval.training.queries import choose_queries
from safe_retrieval.training.ridge import RidgeFit, fit_ridge
from safe_retrieval.training.teachers import EncoderTeacher, load_teacher
from safe_retrieval.training.trainer import Prepared, train
from tests.support.processors import exact_products, in_float32  # noqa: F401  # fixtures
from tests.support.tiny_models import save_tiny_model, tiny_model
from tests.support.tiny_training import QUERIES, refuses, write_config

pytestmark = pytest.mark.usefixtures("verdicts")

STEPS = 5  # an epoch: 40 training queries, 8 a step


@pytest.fixture
def configure(backbone: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    return lambda **changes: load_config(write_config(tmp_path, backbone, **changes))


@pytest.fixture(scope="module")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "is_refusal", refuses)
        config = load_config(write_config(tmp_path_factory.mktemp("finished"), backbone))
        assert train(config, offline=True) == config.out / "adapter"
    return config


def log_of(config: TrainingConfig) -> list[dict[str, Any]]:
    return read_log(config.out / "log.jsonl")


def assert_same_curve(one: TrainingConfig, other: TrainingConfig, tolerance: float = 0.0) -> None:
    first, second = log_of(one), log_of(other)
    assert [(row["phase"], row["step"], sorted(row)) for row in first] == [
        (row["phase"], row["step"], sorted(row)) for row in second
    ]
    for before, after in zip(first, second, strict=True):
        for name in {"alignment", "contrast", "reconstruction"} & before.keys():
            assert after[name] == pytest.approx(before[name], abs=tolerance, rel=tolerance)


def test_the_log_has_every_step_and_every_epoch(finished: TrainingConfig) -> None:
    rows = log_of(finished)
    steps = [(row["phase"], row["step"]) for row in rows if "alignment" in row]
    assert steps == [(phase, step + 1) for phase in ("joint", "heads") for step in range(2 * STEPS)]
    evaluations = [(row["phase"], row["step"], row["epoch"]) for row in rows if "held_out" in row]
    assert evaluations == [("joint", 5, 1), ("joint", 10, 2), ("heads", 5, 1), ("heads", 10, 2)]
    assert all("contrast" in row for row in rows if "alignment" in row)
    assert any("reconstruction" in row for row in rows if row["phase"] == "joint")
    assert not any("reconstruction" in row for row in rows if row["phase"] == "heads")


def test_the_log_ends_with_the_refusal_head(finished: TrainingConfig) -> None:
    *others, last = log_of(finished)
    assert (last["phase"], last["step"]) == ("refusal", 1)
    assert not any(row["phase"] == "refusal" for row in others)
    record = load_adapter(finished.out / "adapter").record
    assert last["method"] == record.refusal.method
    assert round(last["refusal_auroc"], 4) == record.refusal.held_out_auroc
    assert round(last["calibration_error"], 4) == record.training["calibration"]["error"]


def test_it_learns(finished: TrainingConfig) -> None:
    cosines = [row["held_out"]["cosine"] for row in log_of(finished) if "held_out" in row]
    by_step = [row["alignment"] for row in log_of(finished) if "alignment" in row]
    assert np.mean(by_step[-STEPS:]) < 0.8 * np.mean(by_step[:3])
    assert cosines[-1] > cosines[0]


def test_what_the_adapter_says_of_its_training(finished: TrainingConfig) -> None:
    record = load_adapter(finished.out / "adapter").record
    training = record.training
    assert (training["queries"], training["held_out_queries"], training["seed"]) == (40, 10, 0)
    assert training["queries_by_source"] == {"questions": 40}
    assert training["settings"]["optimiser"]["epochs"] == 2
    assert (training["last_phase"], training["last_step"], training["kept_apart"]) == ("heads", 10, False)
    evaluations = [row["held_out"] for row in log_of(finished) if "held_out" in row]
    assert training["held_out"]["cosine"] == max(row["cosine"] for row in evaluations[2:])
    assert training["held_out"]["reconstruction"] == evaluations[1]["reconstruction"]
    assert record.refusal.held_out_auroc is not None
    assert record.policy.system_prompt == finished.policy
    assert record.policy.sha256 == record.policy.policy.sha256
    assert record.template is not None
    assert finished.policy in record.template
    assert record.teacher.fingerprint == record.backbone.fingerprint  # its own teacher
    assert training["calibration"].keys() == {"error", "near_half", "foretold_near_half", "refused_near_half"}


def test_the_adapter_encodes(finished: TrainingConfig) -> None:
    encoder = ResponseEncoder.load(finished.out / "adapter", offline=True)
    vectors, refusal = encoder.encode(QUERIES)
    assert refusal is not None
    # Calibrated on these very queries.
    assert refusal.mean() == pytest.approx(0.33, abs=0.25)
    assert vectors.shape == (len(QUERIES), encoder.dimension)
    held_out = load_adapter(finished.out / "adapter").record.training["held_out"]
    assert held_out_cosine(finished) == pytest.approx(held_out["cosine"], abs=0.01)
    assert len(encoder.decode(QUERIES[:3], max_new_tokens=4)) == 3


def test_a_card_is_written(finished: TrainingConfig) -> None:
    card = (finished.out / "adapter" / "README.md").read_text()
    assert "| questions | 40 |" in card
    evaluations = [row["held_out"] for row in log_of(finished) if "held_out" in row]
    assert f"{evaluations[-1]['cosine']:.3f}" in card
    assert "| refusal |" not in card  # its figure stands among the others
    assert "expected calibration error" in card


@pytest.mark.parametrize(("phase", "after"), [("joint", 1), ("joint", 7), ("joint", 10), ("heads", 3), ("heads", 9)])
def test_a_run_that_was_cut_follows_the_same_curve(
    configure: Callable[..., TrainingConfig],
    finished: TrainingConfig,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    after: int,
) -> None:
    config = configure()
    calls = 0
    take_rows = phases._batch
    limit = after if phase == "joint" else 2 * STEPS + after

    def stops(*arguments: Any) -> list[int]:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return take_rows(*arguments)

    monkeypatch.setattr(phases, "_batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train(config, offline=True)
    assert not (config.out / "adapter").exists()
    monkeypatch.setattr(phases, "_batch", take_rows)
    train(config, offline=True)
    assert_same_curve(finished, config, 1e-6)
    before, again = (load_adapter(one.out / "adapter").record for one in (finished, config))
    assert again.training["held_out"] == pytest.approx(before.training["held_out"], abs=1e-5)


def test_a_finished_run_is_not_trained_again(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    train(config, offline=True)
    before = load_adapter(config.out / "adapter").record
    log = (config.out / "log.jsonl").read_bytes()
    monkeypatch.setattr(phases, "_batch", None)
    monkeypatch.setattr(responses, "_answer", None)
    train(config, offline=True)
    assert (config.out / "log.jsonl").read_bytes() == log
    assert load_adapter(config.out / "adapter").record.weights_sha256 == before.weights_sha256


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize(
    "changes",
    [{"prefix_gigabytes": 0.0}, {"responses": {"batch_size": 50}}],
    ids=["nothing kept", "other batches of responses"],
)
def test_how_it_is_computed_does_not_show_in_the_curve(
    configure: Callable[..., TrainingConfig], changes: dict[str, Any]
) -> None:
    plain, other = configure(out="plain"), configure(out="other", **changes)
    for config in (plain, other):
        train(config, offline=True)
    assert_same_curve(plain, other, 1e-3)


@pytest.mark.usefixtures("in_float32")
def test_two_workers(configure: Callable[..., TrainingConfig]) -> None:
    one, two = (
        configure(
            out=f"run-{workers}",
            loss={"contrast_weight": 0.0, "reconstruction_weight": 0.0},  # they look at a slice as a whole
            optimiser={"workers": workers, "head_epochs": 0},
        )
        for workers in (1, 2)
    )
    for config in (one, two):
        train(config, offline=True)
    assert_same_curve(one, two, 1e-4)
    record = load_adapter(two.out / "adapter").record
    assert record.training["last_phase"] == "joint"
    assert record.training["held_out"]["reconstruction"] is None


def test_early_stop_is_remembered(configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    never_better = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "epochs": 6, "head_epochs": 6, "patience": 2}
    config = configure(optimiser=never_better)
    log = trainer._log_refusal

    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "head_phase", stops)  # cut between the phases
    with pytest.raises(KeyboardInterrupt):
        train(config, offline=True)
    epochs = [row["epoch"] for row in log_of(config) if "held_out" in row]
    assert len(epochs) < 6
    monkeypatch.setattr(trainer, "head_phase", phases.head_phase)
    monkeypatch.setattr(trainer, "_log_refusal", stops)  # and after them
    with pytest.raises(KeyboardInterrupt):
        train(config, offline=True)
    rows = log_of(config)
    assert [row["epoch"] for row in rows if "held_out" in row and row["phase"] == "joint"] == epochs
    monkeypatch.setattr(trainer, "_log_refusal", log)
    train(config, offline=True)
    assert log_of(config)[:-1] == rows
    assert {row["epoch"] for row in rows if row["phase"] == "heads" and "held_out" in row} < {*range(1, 6)}


def test_a_part_of_an_epoch_trains_the_tokens_and_all_queries_the_head(
    configure: Callable[..., TrainingConfig],
) -> None:
    config = configure(optimiser={"epochs": 0.6}, adapter={"head": "ridge"})
    train(config, offline=True)
    joint = [row for row in log_of(config) if row["phase"] == "joint"]
    assert {row["step"] for row in joint} == set(range(1, round(0.6 * STEPS) + 1))
    assert [row["step"] for row in joint if "held_out" in row] == [round(0.6 * STEPS)]
    assert load_adapter(config.out / "adapter").record.training["last_phase"] == "heads"


def test_the_head_of_the_best_epoch_is_kept(configure: Callable[..., TrainingConfig]) -> None:
    # At this rate the head soon learns the training queries by heart.
    config = configure(optimiser={"head_epochs": 25, "head_learning_rate": 0.05})
    train(config, offline=True)
    cosines = [row["held_out"]["cosine"] for row in log_of(config) if row["phase"] == "heads" and "held_out" in row]
    assert max(cosines) > cosines[-1]
    loaded = load_adapter(config.out / "adapter")
    assert loaded.record.training["held_out"]["cosine"] == max(cosines)
    assert held_out_cosine(config) == pytest.approx(max(cosines), abs=0.002)  # float16 on disk

    before = loaded.record.weights_sha256
    train(config, offline=True)
    assert load_adapter(config.out / "adapter").record.weights_sha256 == before


def held_out_cosine(config: TrainingConfig) -> float:
    """Mean cosine of the adapter on disk over the held-out queries of its run, by encoding them."""
    encoder = ResponseEncoder.load(config.out / "adapter", offline=True)
    by_query = {row.query: row for row in responses.read_responses(config.out / "responses.jsonl")[1]}
    rows = [by_query[query.text] for query in choose_queries(config.queries, seed=config.seed)]
    held_out, _ = responses.held_back([row for row in rows if row.response], config.held_out)
    targets = load_teacher("self", encoder.model).targets([row.response for row in held_out])
    vectors = encoder.encode_queries([row.query for row in held_out])
    return float(np.einsum("nd,nd->n", vectors, targets).mean())


def test_linear_head_and_squared_error(configure: Callable[..., TrainingConfig]) -> None:
    config = configure(adapter={"head": "linear", "read_prompt": False, "thought_tokens": 2}, loss={"alignment": "mse"})
    train(config, offline=True)
    assert load_adapter(config.out / "adapter").adapter.shape.tokens == 4


def test_a_head_in_closed_form(configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(adapter={"head": "ridge"})
    log = trainer._log_refusal
    monkeypatch.setattr(trainer, "_log_refusal", stops := Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config, offline=True)  # cut after the head was solved for
    monkeypatch.setattr(trainer, "_log_refusal", log)
    monkeypatch.setattr(phases, "fit_ridge", Mock(side_effect=AssertionError("solved twice")))
    train(config, offline=True)
    assert stops.called
    record = load_adapter(config.out / "adapter").record
    assert (record.training["last_phase"], record.training["last_step"]) == ("heads", 1)
    joint, heads = (
        [row["held_out"]["cosine"] for row in log_of(config) if row["phase"] == phase and "held_out" in row]
        for phase in ("joint", "heads")
    )
    assert len(heads) == 1
    assert record.training["held_out"]["cosine"] == heads[0] > 0.5 * max(joint)
    (solved,) = [row for row in log_of(config) if "penalty" in row]
    assert -1 <= solved["left_out_cosine"] <= 1


WIDE = {"head": "ridge", "read_values": True, "read_first_token": True, "mixture": True}


def test_a_mixture_that_reads_more_than_states_is_encoded_as_it_was_fitted(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(adapter=WIDE)
    fitted: list[torch.Tensor] = []

    def fit(states: torch.Tensor, targets: torch.Tensor) -> RidgeFit:
        found = fit_ridge(states, targets)
        fitted.append(states @ found.weight.T + found.bias)
        return found

    monkeypatch.setattr(phases, "fit_ridge", fit)
    train(config, offline=True)
    loaded = load_adapter(config.out / "adapter")
    assert loaded.record.shape.mixture
    assert loaded.record.shape.values == loaded.adapter.worded.in_features > 0
    assert loaded.adapter.worded.weight.any()
    assert loaded.adapter.begun.weight.any()
    evaluated = loaded.record.training["held_out"]["cosine"]
    # The probabilities are of a head that has seen these queries here, and of one that had not there.
    assert held_out_cosine(config) == pytest.approx(evaluated, abs=0.05)

    by_query = {row.query: row for row in responses.read_responses(config.out / "responses.jsonl")[1]}
    rows = [by_query[query.text] for query in choose_queries(config.queries, seed=config.seed)]
    _, trained = responses.held_back(rows, config.held_out)
    encoder = ResponseEncoder.load(config.out / "adapter", offline=True)
    answered = [row.query for row in trained if not row.refused]
    with torch.no_grad():
        ids, system = encoder.model.token_ids(answered, config.policy), config.policy
        prompt, tail, values = encoder.model.joint_pass(ids, system, loaded.adapter.tokens, read_values=True)
        projected = loaded.adapter.project(torch.cat((prompt[:, None], tail), dim=1))
        first_token = encoder.model.expected_token(encoder.model.logits(prompt))
        answers = loaded.adapter.align(projected, loaded.adapter.read_beside(values, first_token))
    assert torch.cosine_similarity(answers, fitted[0]).min() > 0.995  # 8 bits on disk
    refusals = [row.response for row in trained if row.refused]
    mean = load_teacher("self", encoder.model).targets(refusals).mean(0)
    np.testing.assert_allclose(loaded.adapter.refusal.numpy(), mean, atol=1e-3)


def test_a_head_on_the_tokens_of_an_earlier_run(
    configure: Callable[..., TrainingConfig], finished: TrainingConfig, tmp_path: Path
) -> None:
    earlier = finished.out / "adapter"
    config = configure(adapter={**WIDE, "tokens_from": str(earlier)}, optimiser={"epochs": 0})
    train(config, offline=True)
    before, after = load_adapter(earlier), load_adapter(config.out / "adapter")
    assert torch.equal(before.adapter.tokens, after.adapter.tokens)
    assert torch.equal(before.adapter.reconstruction.weight, after.adapter.reconstruction.weight)
    assert not any(row["phase"] == "joint" for row in log_of(config))
    training = after.record.training
    assert training["tokens_from"] == {
        "adapter": before.fingerprint,
        "queries": 40,
        "responses_sha256": before.record.training["responses_sha256"],
        "seed": 0,
    }
    assert str(earlier) not in json.dumps(training)
    assert training["held_out"]["reconstruction"] > 0
    assert f"`{before.fingerprint}`" in (config.out / "adapter" / "README.md").read_text()
    again = configure(out="again", adapter={"tokens_from": str(config.out / "adapter")}, optimiser={"epochs": 0})
    train(again, offline=True)
    assert load_adapter(again.out / "adapter").record.training["tokens_from"] == training["tokens_from"]
    assert after.record.blend_share is None
    mixed = {"tokens_from": str(earlier), "blend_share": 0.5}
    under_another = configure(out="under", policy="You refuse.", adapter=mixed)
    train(under_another, offline=True)
    record = load_adapter(under_another.out / "adapter").record
    assert record.blend_share == 0.5
    assert "in a blend | the response's share is 50.0 %" in (under_another.out / "adapter" / "README.md").read_text()
    origin = record.training["tokens_from"]
    assert origin == {**training["tokens_from"], "policy": before.record.policy.name}
    with pytest.raises(TrainingError, match="expected compression_tokens 3, got 2"):
        train(configure(out="other", adapter={"compression_tokens": 3, "tokens_from": str(earlier)}), offline=True)
    with pytest.raises(TrainingError, match="rendered template"):
        train(configure(out="other", template="none", adapter={"tokens_from": str(earlier)}), offline=True)
    assert not (tmp_path / "other").exists()


def test_other_settings_in_the_same_folder_are_refused(
    configure: Callable[..., TrainingConfig], finished: TrainingConfig, tmp_path: Path
) -> None:
    config = configure(out=str(finished.out), optimiser={"epochs": 3})
    with pytest.raises(TrainingError, match="other settings"):
        train(config, offline=True)
    with pytest.raises(TrainingError, match="another max_new_tokens"):
        train(configure(out=str(finished.out), responses={"max_new_tokens": 7}), offline=True)


def test_what_decides_nothing_may_be_changed_in_a_run_that_goes_on(
    finished: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tuple(Path(os.path.relpath(file)) for file in finished.queries.files)
    queries = finished.queries.model_copy(update={"files": files})
    other = finished.model_copy(update={"queries": queries, "prefix_gigabytes": 0.5, "checkpoint_steps": 77})
    monkeypatch.setattr(trainer, "joint_phase", Mock(side_effect=AssertionError("trained anew")))
    assert train(other, offline=True) == finished.out / "adapter"


def test_another_teacher_under_the_same_name_is_another_run(
    finished: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EncoderTeacher, "space", property(lambda self: "sha256:retrained"))
    with pytest.raises(TrainingError, match="other settings"):
        train(finished, offline=True)


def test_a_loss_that_is_not_finite_stops_the_run(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    aligned = losses.cosine_alignment
    calls = 0

    def breaks(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return aligned(vectors, targets) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(losses, "cosine_alignment", breaks)
    with pytest.raises(TrainingError, match=r"alignment loss of step 4 \(joint\) is not finite"):
        train(config, offline=True)
    monkeypatch.setattr(losses, "cosine_alignment", aligned)
    train(config, offline=True)  # from the checkpoint of step 2, which is whole


def test_what_is_too_little(configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="twice as many answered queries"):
        train(configure(held_out=26), offline=True)
    monkeypatch.setattr(responses, "is_refusal", lambda _: False)
    with pytest.raises(TrainingError, match="got 0 and 50"):
        train(configure(out="other"), offline=True)
    assert not list((configure(out="other").out).glob("checkpoint*"))


def test_faults_are_said_before_anything_is_generated(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(responses, "_answer", None)
    with pytest.raises(ConfigError, match="'pooled:NAME' or 'llm2vec:FOLDER'"):
        train(configure(teacher="unknown:x"), offline=True)
    with pytest.raises(DataError, match="found none"):
        train(configure(queries={"keep_apart_from": "mistyped"}), offline=True)
    with pytest.raises(DataError, match=r"missing\.txt"):
        train(configure(queries={"files": ["missing.txt"]}), offline=True)


def test_training_on_what_is_answered_already(configure: Callable[..., TrainingConfig]) -> None:
    config = configure(queries={"count": 30})
    file = config.out / "responses.jsonl"
    with pytest.raises(TrainingError, match=r"responses\.jsonl"):
        train(config, offline=True, answered_only=True)
    train(config, offline=True)
    content = file.read_bytes()
    more = configure(out="more", responses_file=str(file))
    train(more, offline=True, answered_only=True)
    assert not (more.out / "prefixes").exists()  # they lie beside the responses, for every run that shares those
    assert load_adapter(more.out / "adapter").record.training["queries"] == 20
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "ended", "whole"),
    [
        ("the moon", False, False),  # cut, though its text is shorter than the limit: it was stripped
        ("the moon", True, True),
        ("the moon", None, True),  # a row of an older file: by its length
        ("the moon pulls on the water of the sea", None, False),
        ("the moon pulls on the water of the sea", True, False),  # encoded in more tokens than it was written in
    ],
)
def test_the_end_is_learned_where_the_answer_ended(tmp_path: Path, text: str, ended: bool | None, whole: bool) -> None:
    model = tiny_model()
    limit = len(model.tokenizer.encode_text(["the moon"], max_tokens=99)[0]) + 1
    settings: Any = SimpleNamespace(out=tmp_path, responses=SimpleNamespace(max_new_tokens=limit))
    nothing: Any = None
    prepared = Prepared(settings, model, nothing, load_teacher("self", model), nothing, [], [])
    row = responses.Response("q", "s", text, refused=False, ended=ended)
    (found,) = trainer._examples(prepared, [row], "training").responses
    ids = model.tokenizer.encode_text([text], max_tokens=limit)[0]
    assert found == ([*ids, model.end_ids[0]] if whole else ids)


def test_a_responses_file_that_does_not_say_what_ended(
    configure: Callable[..., TrainingConfig], finished: TrainingConfig
) -> None:
    config = configure(optimiser={"epochs": 1, "head_epochs": 0})
    rows = responses.read_responses(finished.out / "responses.jsonl")[1]
    assert {row.ended for row in rows} <= {True, False}
    lines = [json.loads(line) for line in (finished.out / "responses.jsonl").read_text().split("\n") if line]
    older = "".join(json.dumps({key: line[key] for key in line if key != "ended"}) + "\n" for line in lines)
    config.out.mkdir()
    (config.out / "responses.jsonl").write_text(older)
    assert train(config, offline=True).is_dir()
    assert {row.ended for row in responses.read_responses(config.out / "responses.jsonl")[1]} == {None}


def test_damaged_targets_are_made_again(configure: Callable[..., TrainingConfig], finished: TrainingConfig) -> None:
    config = configure()
    train(config, offline=True)
    for file in config.out.glob("targets-*.npy"):
        file.write_bytes(file.read_bytes()[:-9])
    (config.out / "checkpoint.safetensors").unlink()
    train(config, offline=True)
    assert_same_curve(finished, config, 1e-6)


def test_one_run_in_a_folder_at_a_time(configure: Callable[..., TrainingConfig]) -> None:
    from safe_retrieval.training.lock import only_writer

    config = configure()
    config.out.mkdir()
    with only_writer(config.out / "train.lock", "it"), pytest.raises(TrainingError, match="another process"):
        train(config, offline=True)


def test_the_backbone_is_not_changed(finished: TrainingConfig, backbone: Path) -> None:
    model = LanguageModel.load(str(backbone), offline=True, dtype="float32")
    assert load_adapter(finished.out / "adapter").record.backbone.fingerprint == model.fingerprint


def test_without_the_chat_template(configure: Callable[..., TrainingConfig]) -> None:
    config = configure(template="none", optimiser={"epochs": 1, "head_epochs": 0})
    loaded = load_adapter(train(config, offline=True))
    model = LanguageModel.load(config.backbone, offline=True)
    assert not ResponseEncoder(model, loaded).model.chat
    with pytest.raises(ConfigError, match="template"):
        configure(template="chatml")


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("native", [torch.float32, torch.bfloat16], ids=str)
def test_answers_and_prefixes_in_eight_bits(
    configure: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch, native: torch.dtype
) -> None:
    monkeypatch.setattr(language_model, "native_dtype", lambda device: native)
    config = configure(responses={"precision": "int8"})
    train(config, offline=True)
    header, rows = responses.read_responses(config.out / "responses.jsonl")
    assert header.precision == "int8"
    assert len(rows) == len(QUERIES)
    record = load_adapter(config.out / "adapter").record
    assert record.training["settings"]["responses"]["precision"] == "int8"
    assert f"torch.{record.training['dtype']}" == str(native)  # of the tokens and their gradients
    with pytest.raises(TrainingError, match="another precision"):
        train(configure(), offline=True)


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize(("answers", "prefixes"), [("int8", "full"), ("full", "int8")])
@pytest.mark.parametrize("taught", [False, True])
def test_prefixes_in_another_precision_than_the_answers(
    configure: Callable[..., TrainingConfig], tmp_path: Path, taught: bool, answers: str, prefixes: str
) -> None:
    other = str(save_tiny_model(tmp_path / "other", seed=1)) if taught else None
    config = configure(responses={"model": other, "precision": answers, "prefix_precision": prefixes})
    train(config, offline=True)
    assert responses.read_responses(config.out / "responses.jsonl")[0].precision == answers
    dtypes = {"full": "auto", "int8": "int8"}
    kept = {
        name: PrefixCache(
            LanguageModel.load(config.backbone, dtype=dtype, offline=True),
            policy_from(config.policy).system_prompt,
            config.prefixes_path,
        ).size_bytes
        for name, dtype in dtypes.items()
    }
    assert [name for name, size in kept.items() if size] == [prefixes]


def test_another_model_answers(configure: Callable[..., TrainingConfig], tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    config = configure(responses={"model": str(other)})
    train(config, offline=True)
    answering = LanguageModel.load(str(other), offline=True)
    header, rows = responses.read_responses(config.out / "responses.jsonl")
    assert header.backbone_fingerprint == answering.fingerprint
    record = load_adapter(config.out / "adapter").record
    assert record.training["answered_by"] == {"name": answering.name, "fingerprint": answering.fingerprint}
    assert record.backbone.fingerprint != answering.fingerprint
    ResponseEncoder.load(config.out / "adapter", offline=True).encode(["what is bread?"])
    alone = configure(out="alone")
    train(alone, offline=True)
    assert "answered_by" not in load_adapter(alone.out / "adapter").record.training
    assert rows != responses.read_responses(alone.out / "responses.jsonl")[1]
