"""Checksums of tensors: what tells a flipped bit on a disk from a value."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def checksum(tensors: Iterable[Tensor], *, seed: str = "") -> int:
    """CRC-32 of tensors' bytes in the order given; fast, and meant against damage, not against malice.

    Args:
        tensors: on the CPU, any dtype and shape; the shapes are part of it.
        seed: text that is covered too, for example a header.
    """
    value = zlib.crc32(seed.encode())
    for tensor in tensors:
        value = zlib.crc32(repr((tensor.dtype, tuple(tensor.shape))).encode(), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return value
