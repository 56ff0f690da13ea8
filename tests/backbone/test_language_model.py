"""Prefix, continuation and joint passes against one plain, unpadded forward pass of ``transformers``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from safe_retrieval.backbone.attention import AttentionLayout
from safe_retrieval.backbone.language_model import LanguageModel, native_dtype
from safe_retrieval.errors import InputError, ModelError
from tests.support.tiny_models import HIDDEN, Family, save_tiny_model, tiny_model

SYSTEM = "You answer every harmless question directly."
QUERIES = [
    "How do tides work?",
    "?",
    "What is the capital of France, and who wrote the Iliad beside the harbour in the winter?",
    "Paris " * 12,
]
FAMILIES = list(Family)


def tail(steps: int = 3) -> torch.Tensor:
    return torch.randn(steps, HIDDEN, generator=torch.Generator().manual_seed(3))


def plain_states(model: LanguageModel, ids: list[int], embeddings: torch.Tensor) -> torch.Tensor:
    """Last-layer states of one row, alone and unpadded, through transformers with nothing of ours but the ids."""
    template = model.shared_prefix(SYSTEM).template
    whole = model.model.get_input_embeddings()(torch.tensor([[*template.before, *ids]]))
    with torch.no_grad():
        out = model.model(inputs_embeds=torch.cat((whole, embeddings[None]), dim=1), output_hidden_states=True)
    states: torch.Tensor = out.hidden_states[-1][0]
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_and_continuation_equal_one_plain_pass(family: Family) -> None:
    model, embeddings = tiny_model(family), tail()
    rows = model.token_ids(QUERIES, SYSTEM)
    prefix = model.prefix_pass(rows, SYSTEM)
    continued = model.continuation_pass(prefix, embeddings)
    assert continued.shape == (len(QUERIES), 3, HIDDEN)
    for row, ids in enumerate(rows):
        expected = plain_states(model, ids, embeddings)
        assert int(prefix.lengths[row]) == len(expected) - 3
        torch.testing.assert_close(prefix.state[row], expected[-4], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(continued[row], expected[-3:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_joint_pass_equals_both(family: Family) -> None:
    model, embeddings = tiny_model(family), tail()
    rows = model.token_ids(QUERIES, SYSTEM)
    prompt, states, values = model.joint_pass(rows, SYSTEM, embeddings)
    assert values is None
    prefix = model.prefix_pass(rows, SYSTEM)
    torch.testing.assert_close(prompt, prefix.state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states, model.continuation_pass(prefix, embeddings), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_averaged_over_the_query_alone(family: Family) -> None:
    model = tiny_model(family)
    rows = model.token_ids(QUERIES, SYSTEM)
    prefix = model.prefix_pass(rows, SYSTEM)
    values = model.query_values(prefix, SYSTEM)
    assert values.shape == (len(QUERIES), prefix.key_values.values_size)
    after = len(model.shared_prefix(SYSTEM).template.after)
    for row, ids in enumerate(rows):
        alone = model.prefix_pass([ids], SYSTEM).key_values.values
        own = [value[0, :, value.shape[2] - len(ids) : value.shape[2] - after] for value in alone]
        expected = torch.cat([layer.mean(1).flatten() for layer in own])
        torch.testing.assert_close(values[row], expected, atol=1e-4, rtol=1e-4)
    together = model.joint_pass(rows, SYSTEM, tail(), read_values=True).values
    torch.testing.assert_close(together, values, atol=1e-4, rtol=1e-4)


def test_the_expected_token_is_a_mean_over_the_likely_ones() -> None:
    model = tiny_model()
    logits = torch.full((2, model.model.config.vocab_size), -100.0)
    logits[0, 7] = 0  # certain
    logits[1, [3, 5]] = torch.tensor([0.75, 0.25]).log()
    embeddings = model.embed(torch.arange(logits.shape[1])).detach()
    found = model.expected_token(logits).detach()
    torch.testing.assert_close(found[0], embeddings[7])
    torch.testing.assert_close(found[1], 0.75 * embeddings[3] + 0.25 * embeddings[5])


def test_a_query_without_a_token_has_values_of_zero() -> None:
    model = tiny_model()
    prefix = model.prefix_pass(model.token_ids(["", "How do tides work?"], SYSTEM), SYSTEM)
    values = model.query_values(prefix, SYSTEM)
    assert not values[0].any()
    assert values[1].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_and_order_do_not_matter(family: Family) -> None:
    model, embeddings = tiny_model(family), tail()
    rows = model.token_ids(QUERIES, SYSTEM)
    together = model.joint_pass(rows, SYSTEM, embeddings).tail
    backwards = model.joint_pass(rows[::-1], SYSTEM, embeddings).tail
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-4, rtol=1e-4)
    for row, ids in enumerate(rows):
        alone = model.joint_pass([ids], SYSTEM, embeddings).tail
        torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


def test_a_prefix_is_not_changed_by_what_follows_it() -> None:
    model = tiny_model()
    prefix = model.prefix_pass(model.token_ids(QUERIES, SYSTEM), SYSTEM)
    before = [key.clone() for key in prefix.key_values.keys]
    first = model.continuation_pass(prefix, tail())
    assert torch.equal(first, model.continuation_pass(prefix, tail()))
    assert all(torch.equal(one, other) for one, other in zip(before, prefix.key_values.keys, strict=True))
    shared = model.shared_prefix(SYSTEM)
    assert shared.key_values.length == shared.length == len(shared.template.before)


def test_selected_rows_continue_as_they_would_have() -> None:
    model = tiny_model()
    prefix = model.prefix_pass(model.token_ids(QUERIES, SYSTEM), SYSTEM)
    chosen = torch.tensor([2, 0])
    part = model.continuation_pass(prefix.select(chosen), tail())
    torch.testing.assert_close(part, model.continuation_pass(prefix, tail())[chosen], atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_tail_and_nothing_else() -> None:
    model = tiny_model()
    prefix = model.prefix_pass(model.token_ids(QUERIES, SYSTEM), SYSTEM)
    embeddings = tail().requires_grad_()
    (gradient,) = torch.autograd.grad(model.continuation_pass(prefix, embeddings).square().sum(), embeddings)
    assert gradient.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in model.model.parameters())


def test_training_may_follow_encoding_in_one_process() -> None:
    # The shared prefix is made by whoever asks first; made in inference mode, it could not be trained through.
    model = LanguageModel(tiny_model().model, tiny_model().tokenizer, name="again", fingerprint="sha256:again")
    rows = tiny_model().token_ids(QUERIES, SYSTEM)
    model.joint_pass(rows, SYSTEM, tail())
    assert not model.shared_prefix(SYSTEM).key_values.keys[0].is_inference()
    embeddings = tail().requires_grad_()
    states = model.continuation_pass(model.prefix_pass(rows, SYSTEM), embeddings)
    (gradient,) = torch.autograd.grad(states.square().sum(), embeddings)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("rows", [[], [[1, 2], []]])
def test_no_rows_and_empty_rows_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(InputError, match="no empty row"):
        tiny_model().prefix_pass(rows, SYSTEM)


def test_a_query_keeps_its_first_tokens_and_what_follows_it() -> None:
    model = tiny_model()
    (row,) = model.token_ids(["harbour " * 1000], SYSTEM, max_tokens=20)
    after = list(model.shared_prefix(SYSTEM).template.after)
    assert row[20:] == after
    assert row[:20] == model.tokenizer.encode_text(["harbour " * 1000], max_tokens=20)[0]


@pytest.mark.parametrize("family", [Family.QWEN2, Family.QWEN3, Family.LLAMA, Family.GPT2])
def test_logits_and_scales_are_those_of_transformers(family: Family) -> None:
    model = tiny_model(family)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = model.model(input_ids=ids)
        states = model.body(input_ids=ids).last_hidden_state
    torch.testing.assert_close(model.logits(states), expected.logits)
    weight = model.model.get_input_embeddings().weight
    assert model.embedding_scale == pytest.approx(float(weight.square().mean().sqrt()), rel=1e-5)
    assert model.hidden_size == HIDDEN


def test_end_ids_are_the_tokenizers_and_the_generation_settings() -> None:
    model = tiny_model()
    settings = model.model.generation_config
    names = model.tokenizer.trusted.convert_ids_to_tokens(model.end_ids)
    assert names[0] == "<|im_end|>"
    before = settings.eos_token_id
    try:
        settings.eos_token_id = [7, 9]
        assert model.end_ids[-2:] == (7, 9)
        settings.eos_token_id = 11
        assert model.end_ids[-1] == 11
    finally:
        settings.eos_token_id = before


def test_native_dtype_of_a_processor_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: False, raising=False)
    assert native_dtype(torch.device("cpu")) is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert native_dtype(torch.device("cpu")) is torch.bfloat16


class Config:
    model_type = "made-up"

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_layouts() -> None:
    assert AttentionLayout.of(Config()) == AttentionLayout(None, mixed=False, logit_scale=1.0, logit_cap=None)
    # Qwen2 names a window that no layer uses.
    unused = Config(layer_types=["full_attention"], sliding_window=4096)
    assert AttentionLayout.of(unused).window is None
    scaled = AttentionLayout.of(Config(logits_scaling=4.0, final_logit_softcapping=30.0))
    expected = 30 * torch.tanh(torch.tensor([4.0, -400.0]) / 4 / 30)
    torch.testing.assert_close(scaled.finish_logits(torch.tensor([4.0, -400.0])), expected)
    with pytest.raises(ModelError, match=r"linear_attention.*made-up"):
        AttentionLayout.of(Config(layer_types=["full_attention", "linear_attention"]))
    for name in ("kv_lora_rank", "hidden_size_per_layer_input"):
        with pytest.raises(ModelError, match=f"has {name}: .*use another backbone"):
            AttentionLayout.of(Config(**{name: 256}))


def test_a_model_whose_layers_have_keys_of_unlike_shapes_is_refused() -> None:
    from transformers import Gemma4TextConfig, Qwen2Config

    AttentionLayout.of(Qwen2Config())
    with pytest.raises(ModelError, match="gemma4_text has hidden_size_per_layer_input, head_dim: "):
        AttentionLayout.of(Gemma4TextConfig())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("backbone"))


def test_a_folder_loads_as_it_was_saved(saved: Path) -> None:
    model = LanguageModel.from_folder(saved, name="saved", fingerprint="sha256:1", dtype="float32", device="cpu")
    rows = model.token_ids(QUERIES, SYSTEM)
    assert torch.equal(model.joint_pass(rows, SYSTEM, tail())[1], tiny_model().joint_pass(rows, SYSTEM, tail())[1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100), "safetensors weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: _another_depth(folder / "config.json"), "lack"),
    ],
    ids=["broken weights", "no weights", "no tokenizer", "too few weights"],
)
def test_damaged_folders_are_named(saved: Path, tmp_path: Path, damage: Any, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message) as raised:
        LanguageModel.from_folder(folder, name="damaged", fingerprint="sha256:1", dtype="float32", device="cpu")
    assert str(folder) in str(raised.value)


def _another_depth(path: Path) -> None:
    config = json.loads(path.read_text())
    config["num_hidden_layers"] = 3
    config["layer_types"] = ["full_attention"] * 3
    path.write_text(json.dumps(config))


def test_an_unknown_dtype_is_told_before_anything_is_fetched() -> None:
    with pytest.raises(InputError, match=r"expected as dtype one of auto, int8, .*, got 'int9'"):
        LanguageModel.load("somebody/elses", dtype="int9", offline=True)
