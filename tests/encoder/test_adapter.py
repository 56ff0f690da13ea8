from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from safe_retrieval.encoder.adapter import AdapterShape, HeadShape, RefusalFeatures, RefusalHead, ResponseAdapter
from safe_retrieval.errors import InputError
from tests.support.adapters import random_adapter, shape_of

HEADS = list(HeadShape)


@pytest.mark.parametrize("head", HEADS)
def test_heads_equal_their_formulas(head: HeadShape) -> None:
    adapter = random_adapter(shape_of(head))
    weights = {name: tensor.detach().double().numpy() for name, tensor in adapter.state_dict().items()}
    states = np.random.default_rng(0).standard_normal((2, 4, 32))
    projected = states / weights["state_scale"] @ weights["reconstruction.weight"].T + weights["reconstruction.bias"]
    if head is HeadShape.RIDGE:
        expected = projected.reshape(2, -1) @ weights["joined.weight"].T + weights["joined.bias"]
    else:
        expected = projected.mean(1) @ weights["alignment.weight"].T + weights["alignment.bias"]
    if head is HeadShape.MLP:
        before = projected @ weights["hidden.weight"].T + weights["hidden.bias"] + weights["offsets"]
        gelu = before * 0.5 * (1 + np.vectorize(math.erf)(before / math.sqrt(2)))
        expected = expected + gelu.mean(1) @ weights["out.weight"].T
    ours = adapter.project(torch.tensor(states, dtype=torch.float32))
    np.testing.assert_allclose(ours.detach().numpy(), projected, atol=1e-4)
    np.testing.assert_allclose(adapter.align(ours).detach().numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(adapter.soft_prompt(ours).detach().numpy(), projected * 0.3, atol=1e-4)


def test_what_is_read_beside_states_and_a_mixture_by_hand() -> None:
    adapter = random_adapter(shape_of(HeadShape.RIDGE, values=5, read_first_token=True, mixture=True))
    adapter.refusal.copy_(torch.arange(6.0))
    projected, values, first_token = torch.randn(2, 4, 32), torch.randn(2, 5), torch.randn(2, 32)
    of_states = projected.flatten(1) @ adapter.joined.weight.T + adapter.joined.bias
    torch.testing.assert_close(adapter.align(projected), of_states)
    answers = of_states + values @ adapter.worded.weight.T + first_token / 0.3 @ adapter.begun.weight.T
    torch.testing.assert_close(adapter.align(projected, adapter.read_beside(values, first_token)), answers)
    expected = torch.stack((answers[0], 0.25 * answers[1] + 0.75 * torch.arange(6.0)))
    torch.testing.assert_close(adapter.expect(answers, torch.tensor([0.0, 0.75])), expected)


def test_without_a_mixture_a_refusal_changes_nothing() -> None:
    vectors = torch.randn(2, 6)
    assert random_adapter(shape_of(HeadShape.RIDGE)).expect(vectors, torch.ones(2)) is vectors


def test_an_untrained_projection_is_the_state_itself() -> None:
    adapter = ResponseAdapter(shape_of(), state_scale=2.0)
    states = torch.randn(1, 4, 32)
    torch.testing.assert_close(adapter.project(states), states / 2)


def test_what_a_shape_counts() -> None:
    shape = shape_of(thought_tokens=2, compression_tokens=5)
    assert (shape.tokens, shape.states) == (7, 6)
    assert shape_of(read_prompt=False).states == 3
    assert random_adapter(shape).tokens.shape == (7, 32)


@pytest.mark.parametrize(
    "fault",
    [
        {"compression_tokens": 0},
        {"dimension": 0},
        {"head": "cube"},
        {"more": 1},
        {"mixture": True},
        {"head": "linear", "values": 3},
        {"head": "mlp", "read_first_token": True},
    ],
)
def test_shapes_that_cannot_be(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdapterShape.model_validate({"hidden_size": 8, "dimension": 4, **fault})


def test_first_token_log_odds_by_hand() -> None:
    # softmax over (log 1, log 2, log 5, log 2) is (0.1, 0.2, 0.5, 0.2); tokens 1 and 3 have p = 0.4
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0, 2.0], [8.0, 1.0, 0.0, 1.0]]))
    features = RefusalHead(2, (1, 3)).features(torch.zeros(2, 2), logits)
    expected = [math.log(0.4 / 0.6), math.log(0.2 / 0.8)]
    assert features.first_token.tolist() == pytest.approx(expected, abs=1e-5)


def test_log_odds_stay_finite_at_certainty() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]])
    features = RefusalHead(2, (0,)).features(torch.zeros(2, 2), logits)
    assert torch.isfinite(features.first_token).all()
    assert features.first_token[0] > 10
    assert features.first_token[1] < -100


def test_probability_by_hand() -> None:
    head = RefusalHead(2, (0,))
    values = {"scale": 0.5, "bias": -1.0, "weight": [2.0, 0.0], "mean": [1.0, 5.0], "deviation": [4.0, 1.0]}
    for name, value in values.items():
        getattr(head, name).copy_(torch.tensor(value))
    features = RefusalFeatures(torch.tensor([3.0]), torch.tensor([[3.0, 100.0]]))
    # 0.5 * 3 + 2 * (3 - 1) / 4 - 1 = 1.5
    assert head(features).item() == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_a_head_needs_a_token() -> None:
    with pytest.raises(InputError, match="at least one token"):
        RefusalHead(2, ())
