from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.errors import ConfigError, TrainingError
from safe_retrieval.training.checkpoint import Checkpoints, Position
from safe_retrieval.training.llm2vec import (
    CONTRAST,
    Llm2VecConfig,
    PhaseSettings,
    contrast_loss,
    load_llm2vec_config,
    masked_loss,
    train_llm2vec,
)
from safe_retrieval.training.lock import only_writer
from safe_retrieval.training.teachers import load_teacher
from tests.support.tiny_models import SENTENCES, save_tiny_model, tiny_model

PHASE = PhaseSettings(steps=4, batch_size=3, learning_rate=1e-2, warmup_steps=1)


@pytest.fixture
def config(tmp_path: Path) -> Llm2VecConfig:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES) + "\n")
    return Llm2VecConfig(
        backbone=str(save_tiny_model(tmp_path / "backbone")),
        out=tmp_path / "run",
        files=(texts,),
        lora_rank=2,
        masked=PHASE,
        contrast=PHASE,
        checkpoint_steps=3,
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_merged_model_is_a_teacher_of_its_own(config: Llm2VecConfig) -> None:
    folder = train_llm2vec(config, offline=True)
    assert len(losses(config.out)) == 8
    backbone = LanguageModel.load(config.backbone, offline=True)
    teacher = load_teacher(f"llm2vec:{folder}", backbone, offline=True)
    plain = load_teacher(f"llm2vec:{config.backbone}", backbone, offline=True)
    ours, theirs = teacher.targets(SENTENCES), plain.targets(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert np.abs(ours - theirs).max() > 1e-3
    assert teacher.space != plain.space
    assert not any("lora" in name for name in LanguageModel.load(str(folder), offline=True).model.state_dict())


def test_a_stopped_run_follows_the_curve_of_one_that_was_not(
    config: Llm2VecConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_llm2vec(config.model_copy(update={"out": tmp_path / "whole"}), offline=True)
    save = Checkpoints.save

    def cut(self: Checkpoints, position: Position, *rest: Any) -> None:
        save(self, position, *rest)
        if position == Position(CONTRAST, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            train_llm2vec(config, offline=True)
    resumed = train_llm2vec(config, offline=True)
    np.testing.assert_allclose(losses(config.out), losses(tmp_path / "whole"), atol=1e-5)
    again = train_llm2vec(config, offline=True)  # a run that is done only merges anew
    assert again == resumed
    for folder in (resumed, again):
        first, second = (LanguageModel.load(str(each), offline=True).model.state_dict() for each in (folder, whole))
        for name, tensor in first.items():
            torch.testing.assert_close(tensor, second[name], atol=1e-5, rtol=1e-4)


def test_batches_hold_texts_of_similar_length_in_no_order(
    config: Llm2VecConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "long.txt"
    texts.write_text("\n".join(" ".join(["word"] * (1 + i % 40) + [str(i)]) for i in range(480)) + "\n")
    seen: list[list[int]] = []

    def loss(_: object, batch: list[list[int]], *__: object, **___: object) -> torch.Tensor:
        seen.append([len(row) for row in batch])
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr("safe_retrieval.training.llm2vec.masked_loss", loss)
    phase = PhaseSettings(steps=48, batch_size=10)
    train_llm2vec(
        config.model_copy(update={"files": (texts,), "masked": phase, "contrast": PhaseSettings(steps=0)}), offline=True
    )
    assert {len(batch) for batch in seen} == {10}
    means = [sum(batch) / 10 for batch in seen]
    assert max(max(batch) - min(batch) for batch in seen) < (max(means) - min(means)) / 2
    assert means != sorted(means)


def test_a_batch_too_large_to_keep_is_computed_again_with_the_same_noise(
    config: Llm2VecConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_llm2vec(config, offline=True)
    monkeypatch.setattr("safe_retrieval.training.llm2vec._KEPT_CELLS", 0)
    calls: list[object] = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return checkpoint(*arguments, **named)

    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", counted)
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    train_llm2vec(config.model_copy(update={"out": tmp_path / "again"}), offline=True)
    assert calls
    np.testing.assert_allclose(losses(config.out), losses(tmp_path / "again"), atol=1e-5)


def test_a_second_run_in_the_same_folder_is_refused(config: Llm2VecConfig) -> None:
    config.out.mkdir()
    with only_writer(config.out / "train.lock", "it"), pytest.raises(TrainingError, match="another process is writing"):
        train_llm2vec(config, offline=True)
    assert [path.name for path in config.out.iterdir()] == ["train.lock"]


def test_other_settings_are_refused(config: Llm2VecConfig) -> None:
    train_llm2vec(config, offline=True)
    with pytest.raises(TrainingError, match="other settings"):
        train_llm2vec(config.model_copy(update={"temperature": 0.1}), offline=True)
    with pytest.raises(TrainingError, match="at least 3 texts"):
        train_llm2vec(config.model_copy(update={"count": 2}), offline=True)


def test_a_run_goes_on_where_its_files_have_moved(config: Llm2VecConfig, tmp_path: Path) -> None:
    train_llm2vec(config, offline=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = tuple(file.rename(elsewhere / file.name) for file in config.files)
    log = (config.out / "log.jsonl").read_bytes()
    train_llm2vec(config.model_copy(update={"files": moved}), offline=True)
    assert (config.out / "log.jsonl").read_bytes() == log


def test_masked_tokens_are_predicted_from_the_position_before() -> None:
    model, row = tiny_model(), [5, 9, 7, 11]
    loss = masked_loss(model, [row], random.Random(0), share=1e-9, mask_id=3)
    place = random.Random(0)
    for _ in row[1:]:
        place.random()
    masked = place.randrange(1, len(row))
    shown = [3 if i == masked else token for i, token in enumerate(row)]
    with torch.inference_mode():
        mask = torch.zeros(1, 1, 4, 4)
        out = model.model(input_ids=torch.tensor([shown]), attention_mask=mask, use_cache=False).logits[0, masked - 1]
    assert float(loss) == pytest.approx(float(-out.log_softmax(-1)[row[masked]]), abs=1e-4)


def test_without_noise_simcse_tells_texts_apart() -> None:
    rows = tiny_model().tokenizer.encode_text(list(SENTENCES), max_tokens=64)
    cold, hot = (float(contrast_loss(tiny_model(), rows, temperature=value)) for value in (0.01, 100.0))
    assert cold < hot
    assert hot == pytest.approx(math.log(len(rows)), abs=0.01)


def test_configurations_are_read_and_mistakes_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_RETRIEVAL_DATA", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text("backbone: x\nout: runs/y\nfiles: ['${SAFE_RETRIEVAL_DATA}/a.jsonl']\n")
    config = load_llm2vec_config(file)
    assert (config.out, config.files) == (tmp_path / "runs/y", (tmp_path / "a.jsonl",))
    file.write_text("backbone: x\nout: y\nrank: 3\n")
    with pytest.raises(ConfigError, match="rank: Extra inputs"):
        load_llm2vec_config(file)
    file.write_text("[" * 3_000)
    for broken in (file, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match="expected a YAML configuration"):
            load_llm2vec_config(broken)
