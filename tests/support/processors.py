"""What tests ask of the processor, by what PyTorch says of it and not by what we make of that."""

from __future__ import annotations

import pytest
import torch

needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="no AVX512-VNNI: 8-bit products may saturate, and are refused"
)
