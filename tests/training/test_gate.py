"""A refusal head taught by another model: what changes in an adapter, and what happens when the run is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.persistence import load_adapter, save_adapter
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import AdapterError, ConfigError, TrainingError
from safe_retrieval.training import gate
from safe_retrieval.training.config import GateConfig, load_gate_config
from safe_retrieval.training.gate import train_gate
from tests.support.adapters import save_random_adapter
from tests.support.judges import save_judge
from tests.support.tiny_training import QUERIES


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge"), QUERIES)


def write_config(folder: Path, backbone: Path, **changes: Any) -> GateConfig:
    save_random_adapter(folder / "adapter", LanguageModel.load(str(backbone)))
    (folder / "questions.txt").write_text("\n".join(QUERIES) + "\n")
    settings = {"adapter": "adapter", "out": "run", "queries": {"files": ["questions.txt"]}}
    (folder / "gate.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    return load_gate_config(folder / "gate.yaml")


@pytest.fixture
def configure(tmp_path: Path, backbone: Path, judge: Path) -> Callable[..., GateConfig]:
    return lambda **changes: write_config(tmp_path, backbone, **{"judge": str(judge), **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, backbone: Path, judge: Path) -> GateConfig:
    config = write_config(tmp_path_factory.mktemp("finished"), backbone, judge=str(judge))
    assert train_gate(config, offline=True) == config.out / "adapter"
    return config


def test_only_the_refusal_head_changes(finished: GateConfig) -> None:
    before, after = ResponseEncoder.load(finished.adapter), ResponseEncoder.load(finished.out / "adapter")
    one, other = before.encode(QUERIES[:8]), after.encode(QUERIES[:8])
    assert one.refusal is not None
    assert other.refusal is not None
    assert np.array_equal(one.vectors, other.vectors)
    assert not np.allclose(one.refusal, other.refusal, atol=1e-3)
    assert before.fingerprint != after.fingerprint


def test_the_head_learns_what_the_judge_would_refuse(finished: GateConfig, judge: Path) -> None:
    after = ResponseEncoder.load(finished.out / "adapter")
    verdict = ResponseEncoder.load(judge).encode(QUERIES).refusal
    foreseen = after.encode(QUERIES).refusal
    assert verdict is not None
    assert foreseen is not None
    assert 0.4 < (verdict >= 0.5).mean() < 0.6
    assert foreseen[verdict >= 0.5].mean() > foreseen[verdict < 0.5].mean() + 0.1


def test_what_the_record_and_the_card_say(finished: GateConfig, judge: Path) -> None:
    folder = finished.out / "adapter"
    record = load_adapter(folder).record
    taught = record.training["judge"]
    assert taught["queries"] == len(QUERIES)
    assert taught["queries_by_source"] == {"questions": len(QUERIES)}
    assert taught["adapter"] == load_adapter(judge).fingerprint
    assert taught["kept_apart"] is False
    assert record.training["gate"].keys() == {"0.5", "0.75", "0.9"}
    assert 0 <= record.training["calibration"]["error"] < 0.5
    assert record.training["note"] == "bereits gr\u00fcn \u2028"  # what was known of the rest stays
    before = load_adapter(finished.adapter).record
    assert (record.policy, record.template, record.teacher) == (before.policy, before.template, before.teacher)
    card = (folder / "README.md").read_text()
    assert "## Refusal head" in card
    assert f"The verdict is that of {taught['name']}" in card


def test_a_cut_run_goes_on_and_a_damaged_block_is_computed_again(
    configure: Callable[..., GateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_BLOCK", 20)
    whole = load_adapter(train_gate(configure(out="whole"), offline=True))
    config = configure()
    kept = gate._write

    def cut(file: Path, features: Any) -> None:
        kept(file, features)
        if len(list(file.parent.glob("*.safetensors"))) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(gate, "_write", cut)
    with pytest.raises(KeyboardInterrupt):
        train_gate(config, offline=True)
    monkeypatch.setattr(gate, "_write", kept)
    damaged = min((config.out / "features").iterdir())
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    written: list[Path] = []
    monkeypatch.setattr(gate, "_write", lambda file, features: (written.append(file), kept(file, features)))
    found = load_adapter(train_gate(config, offline=True))
    assert len(written) == 3  # two that were missing and one that was damaged
    assert torch.equal(found.refusal.weight, whole.refusal.weight)
    written.clear()
    assert train_gate(config, offline=True).is_dir()
    assert not written


def test_a_judge_that_refuses_nothing(configure: Callable[..., GateConfig], tmp_path: Path, judge: Path) -> None:
    lenient = load_adapter(judge)
    lenient.refusal.bias.fill_(-1000.0)
    save_adapter(tmp_path / "lenient", lenient.adapter, lenient.refusal, lenient.record)
    with pytest.raises(TrainingError, match=rf"got 0 and {len(QUERIES)}"):
        train_gate(configure(judge="lenient"), offline=True)
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"judge": "adapter"}, ConfigError, "a judge other than the adapter"),
        ({"judges": "x"}, ConfigError, "judges: Extra inputs"),
        ({"judge": "nobody"}, AdapterError, "no adapter is shipped for nobody"),
    ],
)
def test_a_faulty_configuration(
    configure: Callable[..., GateConfig], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_gate(configure(**changes), offline=True)
