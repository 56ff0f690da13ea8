from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from safe_retrieval.training import losses
from tests.support.tiny_models import HIDDEN, Family, tiny_model

VECTORS = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_cosine_alignment_by_hand() -> None:
    # cosines are 0.6 and 0
    assert losses.cosine_alignment(VECTORS, TARGETS).item() == pytest.approx((0.4 + 1.0) / 2)


def test_squared_alignment_by_hand() -> None:
    # differences (2, 4) and (1, -1)
    assert losses.squared_alignment(VECTORS, TARGETS).item() == pytest.approx((4 + 16 + 1 + 1) / 4)


def test_contrast_by_hand() -> None:
    # cosines of row 0: own 0.6, other 0.8; of row 1: own 0, other 1; at temperature 0.5
    first = -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(1.6)))
    second = -math.log(math.exp(0.0) / (math.exp(0.0) + math.exp(2.0)))
    assert losses.contrast(VECTORS, TARGETS, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_one_row_has_nothing_to_be_told_from() -> None:
    assert losses.contrast(VECTORS[:1], TARGETS[:1], 0.05).item() == 0


RESPONSES = [[5, 6, 7, 8, 9], [10], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]]


@pytest.mark.parametrize("family", [Family.QWEN2, Family.LLAMA, Family.GEMMA3, Family.GPT2])
def test_reconstruction_equals_the_whole_sequence_row_by_row(family: Family) -> None:
    model = tiny_model(family)
    soft = (torch.randn(3, 4, HIDDEN, generator=torch.Generator().manual_seed(0)) * 0.3).requires_grad_()
    value = losses.reconstruction(model, soft, RESPONSES)
    total, count = torch.zeros(()), 0
    for row, ids in enumerate(RESPONSES):
        inputs = torch.cat((soft[row], model.embed(torch.tensor(ids))))[None]
        logits = model.model(inputs_embeds=inputs).logits[0]  # every position through the output layer
        predicting = logits[3 : 3 + len(ids)]
        total = total + functional.cross_entropy(predicting, torch.tensor(ids), reduction="sum")
        count += len(ids)
    assert value.item() == pytest.approx((total / count).item(), rel=1e-5)
    (ours,) = torch.autograd.grad(value, soft, retain_graph=True)
    (theirs,) = torch.autograd.grad(total / count, soft)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_padding_carries_no_loss() -> None:
    model = tiny_model()
    soft = torch.zeros(2, 3, HIDDEN)
    alone = losses.reconstruction(model, soft[:1], [[5, 6]])
    both = losses.reconstruction(model, soft, [[5, 6], [5, 6, 7, 8, 9, 10]])
    longer = losses.reconstruction(model, soft[:1], [[5, 6, 7, 8, 9, 10]])
    assert both.item() == pytest.approx((2 * alone.item() + 6 * longer.item()) / 8, rel=1e-5)
