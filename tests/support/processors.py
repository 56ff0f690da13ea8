"""What tests ask of the processor, by what PyTorch says of it and not by what we make of that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from safe_retrieval.backbone import eight_bit, language_model

needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="no AVX512-VNNI: 8-bit products may saturate, and are refused"
)


def in_integers(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """What ``torch._int_mm`` is where it is exact, slowly and on any processor."""
    return left.int() @ right.int()


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The processor's where they are exact; elsewhere a stand-in, so that all around them is tested there too."""
    if not torch.cpu._is_vnni_supported():
        monkeypatch.setattr(torch, "_int_mm", in_integers)
    eight_bit.can_multiply_exactly.cache_clear()
    yield
    eight_bit.can_multiply_exactly.cache_clear()


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without bfloat16: for what is to agree to more digits than bfloat16 has."""
    monkeypatch.setattr(language_model, "native_dtype", lambda device: torch.float32)
