"""Generation against ``transformers``' own, one row at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from safe_retrieval.backbone.generate import generate, generate_from_embeddings, respond
from safe_retrieval.backbone.language_model import LanguageModel, Prefix
from safe_retrieval.errors import InputError
from tests.support.tiny_models import HIDDEN, Family, tiny_model

SYSTEM = "You answer every harmless question directly."
QUERIES = [f"How do tides work in {place}?" for place in ("Paris", "the harbour of France", "a", "winter")] + [
    "Who wrote the Iliad?",
    "violin",
]
STEPS = 12


def prefix_of(model: LanguageModel) -> Prefix:
    return model.prefix_pass(model.token_ids(QUERIES, SYSTEM), SYSTEM)


def reference(model: LanguageModel, **inputs: torch.Tensor) -> list[int]:
    """transformers' greedy generation for one row, up to the first end token."""
    width = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    out = model.model.generate(
        **inputs, do_sample=False, max_new_tokens=STEPS, eos_token_id=list(model.end_ids), pad_token_id=0
    )
    ids: list[int] = out[0, width:].tolist()
    ends = [place for place, token in enumerate(ids) if token in model.end_ids]
    return ids[: ends[0]] if ends else ids


def references(model: LanguageModel) -> list[list[int]]:
    before = list(model.shared_prefix(SYSTEM).template.before)
    rows = model.token_ids(QUERIES, SYSTEM)
    return [reference(model, input_ids=torch.tensor([before + ids])) for ids in rows]


@pytest.fixture(params=[Family.QWEN2, Family.QWEN3, Family.LLAMA, Family.GEMMA3])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_model(request.param)


@pytest.fixture
def many_ends() -> Iterator[LanguageModel]:
    """A model for which every seventh token ends a response, so that rows are done at different times."""
    model = tiny_model(Family.QWEN2)
    settings = model.model.generation_config
    before, settings.eos_token_id = settings.eos_token_id, list(range(0, 420, 7))
    yield model
    settings.eos_token_id = before


def test_greedy_equals_transformers(model: LanguageModel) -> None:
    assert generate(model, prefix_of(model), max_new_tokens=STEPS) == references(model)


def test_finished_rows_are_dropped_and_the_others_go_on(many_ends: LanguageModel) -> None:
    expected = references(many_ends)
    assert len({len(row) for row in expected}) > 1
    assert min(map(len, expected)) < STEPS
    assert generate(many_ends, prefix_of(many_ends), max_new_tokens=STEPS) == expected


def test_the_prefix_can_be_used_again(model: LanguageModel) -> None:
    prefix = prefix_of(model)
    assert generate(model, prefix, max_new_tokens=4) == generate(model, prefix, max_new_tokens=4)
    assert [len(row) for row in generate(model, prefix, max_new_tokens=0)] == [0] * len(QUERIES)


@pytest.mark.parametrize("family", [Family.QWEN2, Family.QWEN3, Family.GEMMA3])
def test_soft_prompts_equal_transformers(family: Family) -> None:
    model = tiny_model(family)
    # Longer than the window of a sliding layer: what it drops by itself must still be there.
    soft = torch.randn(3, 11, HIDDEN, generator=torch.Generator().manual_seed(0)) * 0.3
    ours = generate_from_embeddings(model, soft, max_new_tokens=STEPS)
    mask = torch.ones(1, 11, dtype=torch.long)
    assert ours == [reference(model, inputs_embeds=row[None], attention_mask=mask) for row in soft]


def test_respond_is_text(model: LanguageModel) -> None:
    answers = respond(model, QUERIES, SYSTEM, max_new_tokens=STEPS)
    assert answers == [model.tokenizer.decode(ids).strip() for ids in references(model)]


def test_sampling_is_each_rows_own() -> None:
    model = tiny_model()
    seeds = list(range(len(QUERIES)))
    together = generate(model, prefix_of(model), max_new_tokens=STEPS, temperature=1.5, seeds=seeds)
    assert together != generate(model, prefix_of(model), max_new_tokens=STEPS)
    for query, seed, expected in zip(QUERIES, seeds, together, strict=True):
        alone = model.prefix_pass(model.token_ids([query], SYSTEM), SYSTEM)
        assert generate(model, alone, max_new_tokens=STEPS, temperature=1.5, seeds=[seed]) == [expected]


def test_samples_follow_the_distribution() -> None:
    model = tiny_model()
    one = model.prefix_pass(model.token_ids(["violin"], SYSTEM), SYSTEM)
    many = one.select(torch.zeros(4000, dtype=torch.long))
    drawn = generate(model, many, max_new_tokens=1, temperature=2.0, seeds=list(range(4000)))
    counts = torch.bincount(torch.tensor([row[0] if row else model.end_ids[0] for row in drawn]), minlength=423)
    expected = (model.logits(one.state)[0] / 2.0).softmax(-1)
    likely = expected.topk(5).indices
    observed = counts[likely] / 4000
    torch.testing.assert_close(observed, expected[likely], atol=0.03, rtol=0)


@pytest.mark.parametrize("seeds", [None, [1]])
def test_sampling_needs_a_seed_for_each_row(seeds: list[int] | None) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="one seed a row"):
        generate(model, prefix_of(model), max_new_tokens=1, temperature=1.0, seeds=seeds)
