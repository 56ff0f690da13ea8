from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from safe_retrieval.backbone import packed_linear
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.backbone.packed_linear import PackedLinear, can_pack, pack_linear_layers
from tests.support.tiny_models import save_tiny_model

# What PyTorch says of its build, and not what we make of it: an operator that is gone must fail here, not be skipped.
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)


@needs_onednn
def test_the_operators_are_there() -> None:
    assert can_pack()


def frozen(width: int = 24, out: int = 40, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (2, 5, 24), (0, 24)])
def test_products_are_those_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer = frozen(bias=bias)
    rows = torch.randn(shape)
    for guard in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with guard():
            torch.testing.assert_close(PackedLinear(layer)(rows), layer(rows))


def test_gradients_reach_the_input() -> None:
    layer = frozen()
    plain, packed = (torch.randn(3, 4, 24, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    layer(plain).square().sum().backward()
    PackedLinear(layer)(packed).square().sum().backward()
    torch.testing.assert_close(packed.grad, plain.grad)


def test_a_gradient_that_is_no_block_of_memory() -> None:
    layer = frozen(bias=False)
    rows = torch.randn(3, 24, requires_grad=True)
    PackedLinear(layer)(rows).sum().backward()  # the gradient of a sum is one number, repeated
    torch.testing.assert_close(rows.grad, layer.weight.sum(0).expand(3, -1))


def test_the_weight_is_counted_and_saved_as_before() -> None:
    layer = frozen()
    packed = PackedLinear(layer)
    assert sum(own.numel() for own in packed.parameters()) == sum(own.numel() for own in layer.parameters())
    assert packed.state_dict().keys() == layer.state_dict().keys()
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in packed.state_dict().items())


@needs_onednn
def test_copies_and_pickles_are_packed_anew() -> None:
    packed = PackedLinear(frozen())
    rows = torch.randn(5, 24)
    with io.BytesIO() as file:
        torch.save(packed, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(packed), again):
        assert other.weight.is_mkldnn
        assert torch.equal(other(rows), packed(rows))


@needs_onednn
def test_moved_to_another_dtype_and_back() -> None:
    packed = PackedLinear(frozen())
    rows = torch.randn(5, 24)
    before = packed(rows)
    assert packed.double().weight.dtype == torch.float64
    torch.testing.assert_close(packed(rows.double()).float(), before)
    assert packed.float().weight.is_mkldnn
    torch.testing.assert_close(packed(rows), before)


def test_shared_between_processes_it_is_plain() -> None:
    packed = PackedLinear(frozen())
    rows = torch.randn(5, 24)
    before = packed(rows)
    assert packed.share_memory().weight.is_shared()
    torch.testing.assert_close(packed(rows), before)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 24)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(24, 24), nn.GELU()) for _ in range(2)])
        self.out = nn.Linear(24, 40, bias=False)
        self.out.weight = self.words.weight


@needs_onednn
def test_layers_that_share_their_weight_or_are_trained_stay() -> None:
    model = Tied().requires_grad_(False)
    model.blocks[0][0].weight.requires_grad_(True)
    assert pack_linear_layers(model) == 1
    assert type(model.out) is type(model.blocks[0][0]) is nn.Linear
    assert isinstance(model.blocks[1][0], PackedLinear)
    assert pack_linear_layers(model) == 0


def test_other_dtypes_stay() -> None:
    assert pack_linear_layers(nn.Sequential(frozen()).bfloat16()) == 0


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "can_pack", lambda: False)
    assert pack_linear_layers(nn.Sequential(frozen())) == 0
    layer, rows = frozen(), torch.randn(5, 24)
    assert torch.equal(PackedLinear(layer)(rows), layer(rows))


@needs_onednn
def test_a_backbone_is_packed_unless_it_is_to_be_changed(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    packed, plain = (
        LanguageModel.load(str(folder), dtype="float32", device="cpu", packed=own) for own in (True, False)
    )
    assert any(isinstance(layer, PackedLinear) for layer in packed.model.modules())
    assert not any(isinstance(layer, PackedLinear) for layer in plain.model.modules())
    tails = [torch.randn(3, packed.hidden_size, generator=torch.Generator().manual_seed(1)) for _ in "ab"]
    for model, tail in zip((packed, plain), tails, strict=True):
        prefix = model.prefix_pass(model.token_ids(["why is the sea salt?"], "be brief"), "be brief")
        model.continuation_pass(prefix, tail.requires_grad_()).square().sum().backward()
    torch.testing.assert_close(tails[0].grad, tails[1].grad, rtol=1e-4, atol=1e-5)
