"""Keys and values of an attention prefix, as plain tensors.

``transformers`` caches grow in place; what is kept and shared between batches must not. So a prefix is kept as a tuple
of tensors, and every pass builds a fresh cache from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache


class KeyValues(NamedTuple):
    """Keys and values of every layer, each (B, kv_heads, n, head_dim)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return int(self.keys[0].shape[0])

    @property
    def length(self) -> int:
        """Number of positions n."""
        return int(self.keys[0].shape[2])

    @property
    def values_size(self) -> int:
        """Numbers V of one position's values, all layers side by side."""
        return sum(int(value.shape[1] * value.shape[3]) for value in self.values)

    def select(self, rows: Tensor) -> KeyValues:
        """The given rows, copied."""
        return KeyValues(tuple(k[rows] for k in self.keys), tuple(v[rows] for v in self.values))

    def expand(self, batch: int) -> KeyValues:
        """One row seen as ``batch`` equal rows, without copying."""
        return KeyValues(
            tuple(k.expand(batch, -1, -1, -1) for k in self.keys),
            tuple(v.expand(batch, -1, -1, -1) for v in self.values),
        )

    def to_cache(self) -> DynamicCache:
        """A fresh growing cache that starts with these; the tensors here stay as they are.

        All layers are full ones, also for models with sliding windows: the attention mask still restricts them, and a
        cropped layer would lose positions that a later pass addresses.
        """
        cache = self.empty_cache()
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(key, value, layer)
        return cache

    @staticmethod
    def empty_cache() -> DynamicCache:
        """A growing cache that keeps every position of every layer.

        Left to itself, a model with sliding windows makes one that drops what has left the window.
        """
        from transformers import DynamicCache

        return DynamicCache()

    @classmethod
    def from_cache(cls, cache: DynamicCache) -> KeyValues:
        """What a cache holds now."""
        return cls(tuple(layer.keys for layer in cache.layers), tuple(layer.values for layer in cache.layers))

    def mean_values(self, weights: Tensor) -> Tensor:
        """(B, V) float32: values of all layers side by side, averaged over positions.

        Args:
            weights: (B, m) float32 of the first m positions; a row of zeros gives zeros.
        """
        mean = weights[:, None, None] / weights.sum(1).clamp(min=1e-9)[:, None, None, None]  # (B, 1, 1, m)
        width = weights.shape[1]
        layers = [(mean @ value[:, :, :width].float()).flatten(1) for value in self.values]
        return torch.cat(layers, dim=1)

    def pack(self, rows: int, columns: slice) -> Tensor:
        """One row's positions as one tensor (layers, 2, kv_heads, n, head_dim), for keeping."""
        return torch.stack(
            [
                torch.stack((k[rows, :, columns], v[rows, :, columns]))
                for k, v in zip(self.keys, self.values, strict=True)
            ]
        )

    @classmethod
    def unpack(cls, stacked: Tensor) -> KeyValues:
        """Inverse of stacking a batch of packed rows: (layers, 2, B, kv_heads, n, head_dim) to per-layer views."""
        return cls(tuple(layer[0] for layer in stacked), tuple(layer[1] for layer in stacked))
