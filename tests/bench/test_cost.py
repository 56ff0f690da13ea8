from __future__ import annotations

import pytest

from safe_retrieval.bench import cost
from safe_retrieval.bench.arms import ARMS
from safe_retrieval.bench.cost import ModelSize, arm_flops, encoder_flops, model_size, pass_flops
from safe_retrieval.encoder.echo import EchoEncoder
from safe_retrieval.encoder.pooled import PooledEncoder
from tests.bench.support import FakeModels
from tests.support.tiny_models import HIDDEN, Family, tiny_model

SIZE = ModelSize(parameters=1000, output=500, layers=2, attention_width=8)


def test_a_pass_is_counted_as_the_formula_says() -> None:
    assert pass_flops(SIZE, 1) == 2 * 1000 + 4 * 2 * 8 * 1
    assert pass_flops(SIZE, 3) == 2 * 1000 * 3 + 4 * 2 * 8 * (1 + 2 + 3)
    assert pass_flops(SIZE, 3, causal=False) == 2 * 1000 * 3 + 4 * 2 * 8 * 9
    assert pass_flops(SIZE, 2, before=10, outputs=1) == 2 * 1000 * 2 + 4 * 2 * 8 * (20 + 3) + 2 * 500


def test_token_by_token_costs_what_one_pass_does() -> None:
    steps = [pass_flops(SIZE, 1, before=position, outputs=1) for position in range(5)]
    assert sum(steps) == pass_flops(SIZE, 5, outputs=5)


@pytest.mark.parametrize("family", [Family.QWEN2, Family.LLAMA])
def test_sizes_leave_embeddings_out(family: Family) -> None:
    model = tiny_model(family).model
    size = model_size(model)
    vocabulary = model.get_input_embeddings().weight.numel()
    assert (size.layers, size.attention_width, size.output) == (2, 32, vocabulary)
    in_layers = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name)
    assert size.parameters == in_layers
    assert vocabulary % HIDDEN == 0


def test_an_echo_costs_more_than_twice_a_plain_pass() -> None:
    model, texts = tiny_model(), ["how do tides work in the harbour"]
    plain, echo = encoder_flops(PooledEncoder(model), texts), encoder_flops(EchoEncoder(model), texts)
    assert plain is not None
    assert echo is not None
    assert echo > 2 * plain


def test_an_instruction_is_counted_where_the_backbone_reads_it() -> None:
    seen: list[list[str]] = []

    def counted(_: object, texts: list[str]) -> float:
        seen.append(list(texts))
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "encoder_flops", counted)
        assert arm_flops(ARMS["blend"], FakeModels(), ["a"], instruction="Say:") == 2.0
        assert arm_flops(ARMS["gated-teacher"], FakeModels(), ["a"], instruction="Say:") == 2.0
    assert seen == [["Say: a"], ["a"], ["a"], ["a"]]


def test_words_cost_nothing_and_unknown_encoders_are_not_free() -> None:
    assert arm_flops(ARMS["bm25"], FakeModels(), ["a"]) == 0.0
    assert arm_flops(ARMS["blend"], FakeModels(), ["a"]) is None
