"""Linear layers of a frozen model on a CPU, with the weights laid out as oneDNN multiplies them.

PyTorch multiplies float32 matrices on x86 by MKL, from the plain layout. oneDNN, which comes with PyTorch too, does the
same from a layout of its own that is made once. Measured on two AVX2 cores of an AMD EPYC
(``benchmarks/packed_linear.py``), product of (m, 1536) and (1536, 8960), GFLOP/s plain and packed: m = 4: 6 and 18;
16: 20 and 55; 128: 69 and 125; 640: 102 and 126. A query has some 20 rows, so one alone takes half the time.

The operators are those that ``torch.compile`` emits. They are not public, so they are looked up, and where one is
missing, layers stay as they are.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

_ROWS = 32  # a hint to oneDNN on how many rows to expect; others are as right, and from 4 to 640 hardly slower
_TRANSPOSING = threading.Lock()


def pack_linear_layers(model: nn.Module) -> int:
    """Replace the linear layers inside a model whose weights are not to be changed any more.

    Layers stay as they are where packing is of no use or not possible: on another device, in another dtype, where the
    weight is shared with another module (an output layer tied to the embeddings), and where PyTorch was built without
    oneDNN.

    Returns:
        How many layers were replaced.
    """
    if not can_pack():
        return 0
    replaced = 0
    for parent, name, layer in frozen_linear_layers(model):
        if _worth_packing(layer.weight):
            setattr(parent, name, PackedLinear(layer))
            replaced += 1
    return replaced


def frozen_linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Plain linear layers with a weight of their own, each with its parent and its name there; safe to replace."""
    owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and owners[id(layer.weight)] == 1 and not layer.weight.requires_grad:
                yield parent, name, layer


def can_pack() -> bool:
    """Whether this build of PyTorch has the operators."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    built_in: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built_in and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _worth_packing(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class PackedLinear(nn.Linear):
    """A linear layer whose weight, (out, in) float32, is packed; it holds no plain copy.

    Gradients flow to its input and not to its weight. The first one makes a packed transpose of the weight, which
    takes as much memory again. Moved to another device or dtype, shared between processes, pickled or copied, it
    is packed anew where that is possible, and plain elsewhere.

    Args:
        layer: a frozen layer; it can be dropped afterwards.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._transposed: Tensor | None = None
        self._set(layer.weight.detach())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's own name)
        """(..., in) to (..., out)."""
        if not self.weight.is_mkldnn:
            return super().forward(input)
        if torch.is_grad_enabled() and input.requires_grad:
            return cast("Tensor", _WithGradient.apply(input, self))  # type: ignore[no-untyped-call]
        return _product(input, self.weight, self.bias)

    def transposed(self) -> Tensor:
        """The packed transpose of the weight, (in, out); made on first use."""
        with _TRANSPOSING:
            if self._transposed is None:
                self._transposed = _packed(self._plain().T.contiguous())
            return self._transposed

    def _plain(self) -> Tensor:
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight.detach()

    def _set(self, weight: Tensor) -> None:
        """Take a plain weight, packed if it can be."""
        self._transposed = None
        packs = can_pack() and _worth_packing(weight) and not weight.is_shared()  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(_packed(weight) if packs else weight, requires_grad=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """What ``to``, ``share_memory`` and the like do to every weight; a packed one would not survive it."""
        self.weight = nn.Parameter(self._plain(), requires_grad=False)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set(self.weight.detach())
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self._plain()

    def __getstate__(self) -> dict[str, Any]:
        """Without packed tensors, whose bytes belong to one processor."""
        plain = nn.Parameter(self._plain(), requires_grad=False)
        parameters = {**self._parameters, "weight": plain}
        return {**self.__dict__, "_parameters": parameters, "_transposed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._set(self.weight.detach())


class _WithGradient(torch.autograd.Function):
    """oneDNN's operator with the gradient of its input, which it does not come with."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return _product(rows, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _product(gradients[0].contiguous(), ctx.layer.transposed(), None), None


def _packed(weight: Tensor) -> Tensor:
    with torch.inference_mode(mode=False), torch.no_grad():
        return cast("Tensor", torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return cast("Tensor", torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], ""))
