"""Linear layers of a frozen model in 8-bit integers: weights once, rows as they come, products summed exactly.

A weight is cut along its input into blocks of equal width, and in each block every output channel has a scale of its
own (its largest magnitude is 127); a row is cut and scaled in the same way when it arrives. The integers of a block are
multiplied and summed in 32 bits, which is exact, and scaled back. Rows have scales of their own, so a row's result does
not depend on those beside it. This is the "dynamic, per-token" scheme of ZeroQuant (arXiv 2206.01861); the blocks are
there for the layers behind a gated activation, where a few inputs are a hundred times larger than the rest and would
leave it no digits: the state of Qwen2.5-Coder 1.5B at the end of a prompt keeps a cosine of 0.9992 to that in float32
with blocks, and 0.9980 without (48 prompts).

A processor with AVX512-VNNI or AMX multiplies 8-bit integers four times as fast as float32, and reads a quarter of the
bytes. There are processors without, on which libraries sum in 16 bits and saturate, so :func:`can_multiply_exactly`
tries it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from safe_retrieval.backbone.packed_linear import frozen_linear_layers
from safe_retrieval.errors import ModelError

_LARGEST = 127
_WIDEST_BLOCK = 1536
_ALIGNED = 64  # blocks are multiples of it, where there is more than one: what a vector register holds


def quantise_linear_layers(model: nn.Module) -> int:
    """Replace the linear layers inside a model on the CPU whose weights are not to be changed any more.

    A layer stays as it is where its weight is shared with another module, or is to be trained; an output layer that is
    tied to the embeddings is one of those (:func:`quantise_output_layer`).

    Returns:
        How many layers were replaced.
    """
    replaced = 0
    for parent, name, layer in frozen_linear_layers(model):
        setattr(parent, name, EightBitLinear(layer))
        replaced += 1
    return replaced


def quantise_output_layer(model: Any) -> None:
    """Give a ``transformers`` causal LM on the CPU an output layer in 8-bit integers, if it has one that is linear.

    Embeddings that it is tied to stay as they are, so a tied one takes a byte a weight more. It is the largest layer of
    a small model: in float32, the logits at the end of a prompt take a quarter of a query's time.
    """
    layer = model.get_output_embeddings()
    if type(layer) is nn.Linear:
        model.set_output_embeddings(EightBitLinear(layer))


@cache
def can_multiply_exactly() -> bool:
    """Whether PyTorch has the product of 8-bit matrices here, and sums the largest ones without saturating."""
    if not hasattr(torch, "_int_mm"):
        return False
    rows, columns, width = 8, 64, 1024
    signs = torch.where(torch.arange(columns) % 2 == 0, _LARGEST, -_LARGEST).to(torch.int8)
    left = torch.full((rows, width), _LARGEST, dtype=torch.int8)
    right = signs[:, None].expand(columns, width).contiguous()
    try:
        product = torch._int_mm(left, right.t())
    except RuntimeError:
        return False
    return torch.equal(product, (signs.int() * (_LARGEST * width)).expand(rows, -1))


class EightBitLinear(nn.Module):
    """A linear layer with an 8-bit weight, for passes without gradients.

    Args:
        layer: a frozen layer on the CPU; it can be dropped afterwards.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.block = _block_width(self.in_features)
        self.bias = layer.bias
        blocks = layer.weight.detach().float().reshape(self.out_features, -1, self.block).transpose(0, 1)
        integers, scales = rounded(blocks)
        self.weight = nn.Parameter(integers.contiguous(), requires_grad=False)  # (blocks, out, block) int8
        self.scales: Tensor
        self.register_buffer("scales", scales.squeeze(-1))  # (blocks, out) float32

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of the rows.

        Raises:
            ModelError: gradients are asked for.
        """
        if torch.is_grad_enabled() and rows.requires_grad:
            raise ModelError("a layer in 8-bit integers gives no gradients; load the model with another dtype")
        flat = rows.reshape(-1, self.in_features).float()
        total: Tensor | None = None
        for part, weight, scale in zip(torch.split(flat, self.block, dim=1), self.weight, self.scales, strict=True):
            integers, row_scales = rounded(part)
            product = torch._int_mm(integers, weight.t()).float().mul_(row_scales).mul_(scale)
            total = product if total is None else total.add_(product)
        total = cast("Tensor", total)
        if self.bias is not None:
            total += self.bias
        return total.to(rows.dtype).reshape(*rows.shape[:-1], self.out_features)


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors along the last dimension as int8, and the scale (..., 1) float32 that gives them back."""
    scales = values.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(_LARGEST)
    return values.div(scales).round_().to(torch.int8), scales


def _block_width(width: int) -> int:
    """The widest equal cut of a layer's input that is no wider than a block may be; the whole where none is even."""
    for count in range(-(-width // _WIDEST_BLOCK), width // _ALIGNED + 1):
        if width % count == 0 and (count == 1 or (width // count) % _ALIGNED == 0):
            return width // count
    return width
