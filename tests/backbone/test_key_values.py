from __future__ import annotations

import torch

from safe_retrieval.backbone.key_values import KeyValues


def some(batch: int = 3, length: int = 5) -> KeyValues:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(batch, 2, length, 4, generator=generator) for _ in range(4)]
    return KeyValues(tuple(tensors[:2]), tuple(tensors[2:]))


def equal(one: KeyValues, other: KeyValues) -> bool:
    pairs = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_sizes() -> None:
    assert (some().batch, some().length) == (3, 5)


def test_selection_copies_rows_in_order() -> None:
    whole = some()
    part = whole.select(torch.tensor([2, 0, 2]))
    assert part.batch == 3
    assert torch.equal(part.keys[1], whole.keys[1][[2, 0, 2]])
    part.values[0].zero_()
    assert whole.values[0].abs().sum() > 0


def test_expanding_shares_memory() -> None:
    one = some(batch=1)
    many = one.expand(6)
    assert many.batch == 6
    assert many.keys[0].data_ptr() == one.keys[0].data_ptr()
    assert torch.equal(many.values[1][4], one.values[1][0])


def test_a_cache_grows_apart_from_what_it_started_with() -> None:
    start = some()
    cache = start.to_cache()
    assert equal(KeyValues.from_cache(cache), start)
    cache.update(torch.ones(3, 2, 1, 4), torch.ones(3, 2, 1, 4), 0)
    assert start.length == 5
    assert cache.layers[0].keys.shape[2] == 6


def test_pack_and_unpack_are_inverse() -> None:
    whole = some()
    packed = [whole.pack(row, slice(1, 5)) for row in range(3)]
    assert packed[0].shape == (2, 2, 2, 4, 4)  # layers, keys and values, heads, positions, width
    again = KeyValues.unpack(torch.stack(packed, dim=2))
    assert equal(again, KeyValues(tuple(k[:, :, 1:] for k in whole.keys), tuple(v[:, :, 1:] for v in whole.values)))
