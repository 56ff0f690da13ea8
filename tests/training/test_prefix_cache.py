from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from safe_retrieval.backbone.eight_bit import quantise_linear_layers
from safe_retrieval.backbone.language_model import LanguageModel, Prefix
from safe_retrieval.errors import TrainingError
from safe_retrieval.training import prefix_cache
from safe_retrieval.training.prefix_cache import PrefixCache
from tests.support.tiny_models import HIDDEN, tiny_model
from tests.support.tiny_training import QUERIES

SYSTEM = "You answer every harmless question directly."
SOME = [*QUERIES[:6], "?", "a longer question about the harbour of the sea, the violin and the capital of France"]


def cache(root: Path | None, system: str = SYSTEM, max_bytes: int = 2**30) -> PrefixCache:
    return PrefixCache(tiny_model(), system, root, max_bytes=max_bytes)


def continued(prefix: Prefix) -> torch.Tensor:
    tail = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(0))
    return tiny_model().continuation_pass(prefix, tail)


def never(*_: object) -> Prefix:
    raise AssertionError("computed anew")


def on_disk(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_what_is_kept_is_what_was_computed(tmp_path: Path) -> None:
    computed = cache(tmp_path).compute(SOME)
    again = cache(tmp_path)
    assert all(again.holds(query) for query in SOME)
    kept = again.get(SOME)
    assert torch.equal(kept.mask, computed.mask)
    assert torch.equal(kept.lengths, computed.lengths)
    assert torch.equal(kept.state, computed.state)
    real = kept.mask[:, None, :, None]
    for before, after in zip(computed.key_values.keys, kept.key_values.keys, strict=True):
        torch.testing.assert_close(after * real, before * real, atol=1e-2, rtol=1e-2)  # bfloat16
    torch.testing.assert_close(continued(kept), continued(computed), atol=0.1, rtol=0.05)


def test_kept_and_not_kept_give_the_same_result(tmp_path: Path) -> None:
    nothing = cache(tmp_path / "nothing", max_bytes=0)
    all_of_it = cache(tmp_path / "all")
    first, later = all_of_it.get(SOME), all_of_it.get(SOME)
    for prefix in (nothing.get(SOME), later):
        torch.testing.assert_close(continued(prefix), continued(first), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_filling_keeps_what_is_missing_in_batches_of_one_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    expected = continued(cache(tmp_path / "one by one").get(SOME))
    kept = cache(tmp_path / "filled")
    kept.compute(SOME[:2])
    batches: list[list[int]] = []
    prefix_pass = LanguageModel.prefix_pass

    def seen(model: LanguageModel, ids: Sequence[Sequence[int]], system_prompt: str) -> Prefix:
        batches.append([len(row) for row in ids])
        return prefix_pass(model, ids, system_prompt)

    monkeypatch.setattr(LanguageModel, "prefix_pass", seen)
    monkeypatch.setattr(LanguageModel, "batch_cells", 40)
    kept.fill([*SOME, SOME[3]], workers=workers)
    assert sum(len(batch) for batch in batches) == len(SOME) - 2
    assert all(len(batch) * max(batch) <= 40 for batch in batches if len(batch) > 1)
    monkeypatch.setattr(LanguageModel, "prefix_pass", never)
    kept.fill(SOME)
    # In another batch the last bits differ, and rounding to bfloat16 may then fall the other way.
    torch.testing.assert_close(continued(kept.get(SOME)), expected, atol=1e-3, rtol=1e-3)


def test_filling_ends_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cache(tmp_path / "whole")
    whole.compute(QUERIES)
    monkeypatch.setattr(LanguageModel, "batch_cells", 20)
    bounded = cache(tmp_path / "bounded", max_bytes=whole.size_bytes // 2)
    bounded.fill(QUERIES)
    assert 0.3 * whole.size_bytes < bounded.size_bytes <= whole.size_bytes // 2
    monkeypatch.setattr(LanguageModel, "prefix_pass", never)
    bounded.fill(QUERIES)  # nothing more fits, so nothing is computed for it
    cache(None).fill(QUERIES)


def test_rows_come_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache(tmp_path)
    whole = continued(kept.get(SOME))
    monkeypatch.setattr(LanguageModel, "prefix_pass", never)
    torch.testing.assert_close(continued(kept.get(SOME[::-1])), whole.flip(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(continued(kept.get([SOME[3]]))[0], whole[3], atol=1e-5, rtol=1e-5)


def test_the_bound_holds(tmp_path: Path) -> None:
    whole = cache(tmp_path / "whole")
    for start in range(0, len(QUERIES), 5):
        whole.compute(QUERIES[start : start + 5])
    assert whole.size_bytes == on_disk(tmp_path / "whole")
    bound = whole.size_bytes // 2
    bounded = cache(tmp_path / "bounded", max_bytes=bound)
    for start in range(0, len(QUERIES), 5):
        bounded.compute(QUERIES[start : start + 5])
    assert 0.6 * bound < bounded.size_bytes <= bound
    assert bounded.size_bytes == on_disk(tmp_path / "bounded")
    assert len([query for query in QUERIES if bounded.holds(query)]) < len(QUERIES)
    assert not cache(tmp_path / "bounded", max_bytes=0).get(QUERIES[:2]).state.isnan().any()


def test_what_is_missing_is_computed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = continued(cache(tmp_path / "whole").get(SOME))
    part = cache(tmp_path / "part")
    part.compute(SOME[1::2])
    computed: list[str] = []
    compute = PrefixCache.compute

    def seen(self: PrefixCache, queries: Sequence[str]) -> Prefix:
        computed.extend(queries)
        return compute(self, queries)

    monkeypatch.setattr(PrefixCache, "compute", seen)
    # In another batch the last bits differ, and rounding to bfloat16 may then fall the other way.
    torch.testing.assert_close(continued(part.get(SOME)), expected, atol=1e-3, rtol=1e-3)
    assert computed == SOME[::2]
    assert all(part.holds(query) for query in SOME)


def test_nothing_is_kept_twice(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.compute([SOME[0], SOME[0], SOME[1]])
    size = kept.size_bytes
    kept.compute(SOME[:2])
    assert kept.size_bytes == size == on_disk(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" + data])
def test_a_damaged_file_is_dropped(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    expected = continued(cache(tmp_path).get(SOME))
    (file,) = tmp_path.rglob("batch-*")
    file.write_bytes(damage(file.read_bytes()))
    again = cache(tmp_path)
    assert not again.holds(SOME[0])
    assert not file.exists()
    torch.testing.assert_close(continued(again.get(SOME)), expected, atol=1e-5, rtol=1e-5)
    assert file.exists()


def test_a_flipped_bit_is_computed_anew(tmp_path: Path) -> None:
    expected = continued(cache(tmp_path).get(SOME))
    (file,) = tmp_path.rglob("batch-*")
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes(content)
    again = cache(tmp_path)
    torch.testing.assert_close(continued(again.get(SOME)), expected, atol=1e-5, rtol=1e-5)
    assert again.size_bytes == on_disk(tmp_path)
    torch.testing.assert_close(continued(cache(tmp_path).get(SOME)), expected, atol=1e-5, rtol=1e-5)


def test_another_policy_backbone_or_precision_is_not_served(tmp_path: Path) -> None:
    cache(tmp_path).compute(SOME)
    assert not cache(tmp_path, system="Answer in French.").holds(SOME[0])
    same = tiny_model()
    other = LanguageModel(same.model, same.tokenizer, name=same.name, fingerprint="sha256:other")
    assert not PrefixCache(other, SYSTEM, tmp_path).holds(SOME[0])
    quantised = copy.deepcopy(same.model)
    quantise_linear_layers(quantised)
    rounded = LanguageModel(quantised, same.tokenizer, name=same.name, fingerprint=same.fingerprint)
    assert not PrefixCache(rounded, SYSTEM, tmp_path).holds(SOME[0])
    assert cache(tmp_path).holds(SOME[0])


@pytest.mark.parametrize("max_bytes", [0, 2**30], ids=["computed", "kept"])
def test_prefixes_come_in_the_dtype_asked_for(tmp_path: Path, max_bytes: int) -> None:
    """A run reads in 8-bit integers, whose floats are float32, and may train in bfloat16."""
    given = PrefixCache(tiny_model(), SYSTEM, tmp_path, max_bytes=max_bytes, dtype=torch.bfloat16)
    prefix = given.get(SOME)
    assert {tensor.dtype for tensor in (*prefix.key_values.keys, *prefix.key_values.values, prefix.state)} == {
        torch.bfloat16
    }
    assert given.compute(SOME).state.dtype == torch.float32
    trained = LanguageModel(
        copy.deepcopy(tiny_model().model).bfloat16(), tiny_model().tokenizer, name="tiny", fingerprint="sha256:same"
    )
    tail = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(0))
    expected = continued(cache(None).get(SOME))
    torch.testing.assert_close(trained.continuation_pass(prefix, tail).float(), expected, atol=0.1, rtol=0.05)


def test_without_a_folder_nothing_is_kept() -> None:
    nowhere = cache(None)
    nowhere.compute(SOME)
    assert not nowhere.holds(SOME[0])
    assert nowhere.size_bytes == 0


def test_leavings_of_a_killed_process_go_when_they_are_old(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.compute(SOME)
    (folder,) = tmp_path.iterdir()
    young, old = folder / "batch-1.partial-1-1", folder / "batch-2.partial-1-1"
    for path in (young, old):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    cache(tmp_path)
    assert young.exists()
    assert not old.exists()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    kept = cache(tmp_path)
    monkeypatch.setattr(prefix_cache, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left.*prefix_gigabytes"):
        kept.compute(SOME)
    assert on_disk(tmp_path) == 0


def test_threads_share_it(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    batches = [QUERIES[start : start + 5] for start in range(0, len(QUERIES), 5)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(kept.compute, batches))
    assert all(kept.holds(query) for query in QUERIES)
    assert kept.size_bytes == on_disk(tmp_path)
