"""The weights inside an encoder, for a host framework that moves them to a device or shares them with workers.

Encoders here are no ``torch.nn.Module`` themselves: most of what is an encoder has no weights, and some have several
models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from safe_retrieval.types import Encoder

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class HoldsWeights(Protocol):
    """An encoder that says which torch modules it computes with."""

    @property
    def torch_modules(self) -> tuple[nn.Module, ...]:
        """The modules; moving all of them moves the encoder."""


def modules_of(*encoders: Encoder) -> tuple[nn.Module, ...]:
    """The torch modules of all these encoders, each once, in order; an encoder without weights has none."""
    found = [module for encoder in encoders if isinstance(encoder, HoldsWeights) for module in encoder.torch_modules]
    return tuple(dict.fromkeys(found))
