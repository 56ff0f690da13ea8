from __future__ import annotations

import pytest
import torch

from safe_retrieval.training.checksums import checksum

WHOLE = (torch.arange(6, dtype=torch.bfloat16), torch.ones(2, 3))


@pytest.mark.parametrize(
    "other",
    [
        (WHOLE[0], torch.ones(3, 2)),
        (WHOLE[0], torch.ones(2, 3, dtype=torch.int32)),
        WHOLE[::-1],
        WHOLE[:1],
        (WHOLE[0].flip(0), WHOLE[1]),
    ],
)
def test_values_shapes_types_and_order_count(other: tuple[torch.Tensor, ...]) -> None:
    assert checksum(WHOLE) == checksum((WHOLE[0].clone(), WHOLE[1].clone()))
    assert checksum(other) != checksum(WHOLE)


def test_the_seed_counts() -> None:
    assert checksum(WHOLE, seed="a") != checksum(WHOLE)


def test_an_empty_or_strided_tensor_has_one() -> None:
    assert isinstance(checksum([torch.empty(0)]), int)
    assert checksum([torch.arange(6).reshape(2, 3).T]) == checksum([torch.arange(6).reshape(2, 3).T.contiguous()])
