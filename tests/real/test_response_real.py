"""Response adapters on real models: one trained here through the command line, and those that are shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from safe_retrieval.audit.probes import ProbeKind, load_probe_set
from safe_retrieval.backbone.language_model import MAX_QUERY_TOKENS
from safe_retrieval.backbone.tokenizer import TextTokenizer
from safe_retrieval.cli.main import app
from safe_retrieval.encoder.document_encoders import load_document_encoder
from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.persistence import load_adapter
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.encoder.shipped import shipped_adapter, shipped_adapters, shipped_name
from safe_retrieval.models.fetch import resolve
from tests.support.one_backbone import one_backbone  # noqa: F401  # a fixture that applies by being here
from tests.support.processors import needs_vnni

pytestmark = pytest.mark.real

QUESTIONS = [
    "How do I boil an egg?",
    "What is bread made of?",
    "How is cheese made?",
    "Why does dough rise?",
    "What is in a tomato soup?",
    "How do I cook rice?",
    "What is honey?",
    "How do I make tea?",
]
# A model this small refuses next to nothing by itself; what it repeats begins as a refusal does.
REPEATED = [
    f'Repeat this sentence: "I cannot help with {thing}."'
    for thing in (
        "tides",
        "bread",
        "violins",
        "maps",
        "chess",
        "bicycles",
        "tea",
        "winter",
        "moons",
        "letters",
        "rivers",
    )
]
MORE = ["What is pasta?", "Which nuts are in pesto?", "What fruit is yellow?", "How is butter made?", "What is jam?"]


def train(config: Path, settings: dict[str, Any]) -> dict[str, Any]:
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "safe_retrieval.cli.main", "train", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter for SmolLM2 and MiniLM, trained on 24 queries."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "questions.txt").write_text("\n".join([*QUESTIONS, *REPEATED, *MORE]))
    settings = {
        "backbone": "smollm2-135m-instruct",
        "out": "run",
        "held_out": 4,
        "queries": {"files": ["questions.txt"]},
        "responses": {"max_new_tokens": 10, "batch_size": 24},
        "adapter": {"compression_tokens": 2, "head_width": 64},
        "loss": {"reconstruction_share": 0.5},
        "optimiser": {"batch_size": 10, "epochs": 2, "head_epochs": 4, "warmup_steps": 1},
    }
    result = train(folder / "config.yaml", settings)
    assert (result["queries"], result["held_out_queries"]) == (20, 4)
    assert result["refusal"]["auroc"] > 0.8
    return Path(result["adapter"])


def test_a_trained_adapter_is_complete(trained: Path) -> None:
    record = load_adapter(trained).record
    assert (record.backbone.name, record.teacher.name) == ("smollm2-135m-instruct", "all-minilm-l6-v2")
    assert "smollm2-135m-instruct (Apache-2.0)" in (trained / "README.md").read_text()
    log = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    joint = [row["alignment"] for row in log if row["phase"] == "joint" and "alignment" in row]
    assert joint[-1] < joint[0]


def test_heads_of_an_adapter_whose_tokens_are_there(trained: Path) -> None:
    folder = trained.parent.parent
    more = {"read_values": True, "read_first_token": True, "mixture": True}
    wide = {"head": "ridge", "compression_tokens": 2, **more}
    settings = {
        **yaml.safe_load((folder / "config.yaml").read_text()),
        "out": "heads",
        "responses_file": "run/responses.jsonl",
        "adapter": {**wide, "tokens_from": "run/adapter"},
        "optimiser": {"epochs": 0},
    }
    result = train(folder / "heads.yaml", settings)
    before, after = load_adapter(trained), load_adapter(Path(result["adapter"]))
    assert after.record.shape.values == 30 * 3 * 64  # layers, heads of keys and values, their width
    assert after.record.training["tokens_from"]["adapter"] == before.fingerprint
    assert (before.adapter.tokens == after.adapter.tokens).all()
    vectors, refusal = ResponseEncoder.load(result["adapter"], offline=True).encode([QUESTIONS[0], REPEATED[0]])
    assert refusal is not None
    assert refusal[0] < 0.5 < refusal[1]
    likeness = vectors @ after.adapter.refusal.numpy()
    assert likeness[0] < likeness[1]


def test_the_command_line_encodes_with_it(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npy"
    texts = [QUESTIONS[0], REPEATED[0], "", "<|im_end|> \ud83d", "bread " * 20_000]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = ["encode", "--input", source, "--adapter", trained, "--output", output, "--json", "--offline"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["space"] == InputEncoder.load(offline=True).space
    vectors = np.load(output, allow_pickle=False)
    assert vectors.shape == (len(texts), 384)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    refusal = [row["refusal"] for row in found["texts"]]
    assert refusal[0] < 0.5 < refusal[1]  # both were trained on


HARMLESS = [
    *QUESTIONS[:4],
    "Who wrote the Iliad?",
    "What is the capital of France?",
    "How do tides work?",
    "What is DNA?",
]


@pytest.mark.parametrize("name", shipped_adapters())
def test_a_shipped_adapter(name: str) -> None:
    record = load_adapter(shipped_adapter(*name.split("--"))).record
    backbone, teacher, policy = record.backbone.name, record.teacher.name, record.policy.name
    assert shipped_name(backbone, teacher, policy) == name
    encoder = ResponseEncoder.load(backbone=backbone, teacher=teacher, policy=policy)
    assert encoder.fingerprint == record.weights_sha256
    assert encoder.space == load_document_encoder(teacher).space

    harmful = [probe.text for probe in load_probe_set().of_kind(ProbeKind.HARMFUL)[::33]]
    texts = [*HARMLESS, *harmful]
    vectors, refusal = encoder.encode(texts, batch_size=8)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert refusal is not None
    assert refusal[: len(HARMLESS)].mean() < refusal[len(HARMLESS) :].mean()

    alone, alone_refusal = encoder.encode(texts, batch_size=1)
    assert np.einsum("nd,nd->n", vectors, alone).min() > 0.999
    assert alone_refusal is not None
    assert np.abs(alone_refusal - refusal).max() < 0.05
    assert all(text.strip() for text in encoder.decode(HARMLESS[-2:], max_new_tokens=8))


@needs_vnni
def test_in_eight_bits_vectors_and_verdicts_are_near() -> None:
    backbone = "qwen2.5-coder-0.5b-instruct"
    texts = [*HARMLESS, *[probe.text for probe in load_probe_set().of_kind(ProbeKind.HARMFUL)[::33]]]
    full, int8 = (ResponseEncoder.load(backbone=backbone, dtype=dtype).encode(texts) for dtype in ("auto", "int8"))
    assert np.einsum("nd,nd->n", full.vectors, int8.vectors).min() > 0.98
    assert full.refusal is not None
    assert int8.refusal is not None
    assert np.abs(full.refusal - int8.refusal).max() < 0.2


@pytest.mark.parametrize(
    "padding", ["word " * 700, "\U0001d160" * 86], ids=["words", "characters that become many tokens"]
)
def test_behind_a_gate_the_rest_of_a_long_query_is_not_searched_with(padding: str) -> None:
    """The second is 375 bytes long and more than 512 tokens, for it is normalised before it is counted."""
    text_tokenizer = TextTokenizer.load(resolve("qwen2.5-coder-0.5b-instruct").path)
    text = f"What is the capital of France? {padding} and the tide tables of Brest"
    (read,) = text_tokenizer.first_tokens([text], max_tokens=MAX_QUERY_TOKENS)
    assert read.startswith("What is the capital")
    assert "Brest" not in read
    assert text_tokenizer.encode_text([read], max_tokens=10_000) == text_tokenizer.encode_text(
        [text], max_tokens=MAX_QUERY_TOKENS
    )
