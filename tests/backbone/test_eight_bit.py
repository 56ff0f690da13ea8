from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from safe_retrieval.backbone import eight_bit, language_model
from safe_retrieval.backbone.eight_bit import EightBitLinear, can_multiply_exactly, quantise_linear_layers
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.errors import ModelError
from tests.support.processors import (
    exact_products,  # noqa: F401  # a fixture
    in_integers,
    needs_vnni,
)
from tests.support.tiny_models import Family, save_tiny_model

pytestmark = pytest.mark.usefixtures("exact_products")

POLICY = "Answer safely."


def frozen(width: int = 128, out: int = 64, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=bias).requires_grad_(False)


def loaded(folder: Path, dtype: str | torch.dtype) -> LanguageModel:
    return LanguageModel.from_folder(folder, name="tiny", fingerprint="sha256:0", dtype=dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(128,), (1, 128), (7, 128), (2, 5, 128)])
def test_products_are_near_those_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = frozen(bias=bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    near, exact = EightBitLinear(layer)(rows), layer(rows)
    assert near.shape == exact.shape
    assert near.dtype == exact.dtype
    assert (near - exact).norm() < 0.02 * exact.norm()


def test_weights_that_are_eight_bit_already_are_kept_exactly() -> None:
    layer = frozen(bias=False)
    integers = torch.randint(-127, 128, (64, 128)).float()
    integers[:, 0] = 127  # the largest is there, so the scale is one
    layer.weight.copy_(integers)
    rows = torch.randint(-127, 128, (5, 128)).float()
    rows[:, 0] = -127
    assert torch.equal(EightBitLinear(layer)(rows), layer(rows))


def test_one_large_input_leaves_the_other_blocks_their_digits() -> None:
    layer = frozen(2 * 1536, 64)
    rows = torch.randn(3, 2 * 1536, generator=torch.Generator().manual_seed(1))
    rows[:, 5] = 500.0
    quiet = rows.clone()
    quiet[:, :1536] = 0
    quantised = EightBitLinear(layer)
    assert quantised.block == 1536
    others = quantised(rows) - quantised(rows * (torch.arange(2 * 1536) < 1536)) + layer.bias
    assert (others - layer(quiet)).norm() < 0.02 * layer(quiet).norm()


@pytest.mark.parametrize(
    ("width", "block"),
    [(896, 896), (1536, 1536), (4864, 1216), (8960, 1280), (3072, 1536), (1537, 1537), (2 * 1543, 2 * 1543)],
)
def test_blocks_are_equal_and_aligned_or_one(width: int, block: int) -> None:
    assert EightBitLinear(frozen(width, 8)).block == block


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    layer = EightBitLinear(frozen())
    rows = torch.randn(9, 128) * torch.logspace(-3, 3, 9)[:, None]
    torch.testing.assert_close(layer(rows)[4:5], layer(rows[4:5]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_zero_tiny_and_huge_rows_stay_finite(value: float) -> None:
    out = EightBitLinear(frozen())(torch.full((2, 128), value))
    assert out.isfinite().all()


def test_what_is_not_a_number_is_not_hidden() -> None:
    out = EightBitLinear(frozen())(torch.tensor([[float("nan")] * 128, [1.0] * 128]))
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_gradients_are_refused() -> None:
    with pytest.raises(ModelError, match="no gradients"):
        EightBitLinear(frozen())(torch.randn(2, 128, requires_grad=True))


def test_parameters_are_counted_as_before_and_take_a_quarter() -> None:
    layer = frozen(bias=False)
    quantised = EightBitLinear(layer)
    assert sum(own.numel() for own in quantised.parameters()) == layer.weight.numel()
    assert sum(own.nbytes for own in quantised.parameters()) == layer.weight.nbytes // 4


def test_copies_and_saved_states_compute_the_same() -> None:
    layer, rows = EightBitLinear(frozen()), torch.randn(3, 128)
    other = EightBitLinear(frozen(bias=True))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(copy.deepcopy(layer)(rows), layer(rows))
    assert torch.equal(other(rows), layer(rows))


def test_shared_and_trainable_weights_are_left_alone() -> None:
    tied = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16, bias=False), nn.Linear(16, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    tied.requires_grad_(False)
    tied[3].requires_grad_(True)
    assert quantise_linear_layers(tied) == 1
    assert [type(layer).__name__ for layer in tied] == ["Embedding", "Linear", "EightBitLinear", "Linear"]


def test_a_model_in_eight_bits_says_so_and_is_near_the_plain_one(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    plain, quantised = loaded(folder, "float32"), loaded(folder, "int8")
    assert (plain.precision, quantised.precision) == ("float32", "int8")
    assert loaded(folder, torch.int8).precision == "int8"
    assert quantised.dtype == torch.float32
    states = [m.prefix_pass(m.token_ids(["what is bread?", "hi"], POLICY), POLICY).state for m in (plain, quantised)]
    assert torch.cosine_similarity(*states).min() > 0.99


@pytest.mark.parametrize("family", [Family.QWEN2, Family.LLAMA])  # output layers tied to the embeddings, and not
def test_logits_are_near_the_plain_ones_and_embeddings_are_left_alone(tmp_path: Path, family: Family) -> None:
    folder = save_tiny_model(tmp_path / "tiny", family)
    plain, quantised = loaded(folder, "float32"), loaded(folder, "int8")
    assert type(quantised.model.get_output_embeddings()) is EightBitLinear
    assert torch.equal(*(m.model.get_input_embeddings().weight for m in (plain, quantised)))
    states = torch.randn(3, plain.hidden_size)
    assert torch.cosine_similarity(plain.logits(states), quantised.logits(states)).min() > 0.999


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny", Family.GPT2)
    with pytest.raises(ModelError, match="no linear layers"):
        loaded(folder, "int8")


def test_no_eight_bits_where_products_are_not_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(language_model, "can_multiply_exactly", lambda: False)
    with pytest.raises(ModelError, match="multiplies no 8-bit integers exactly"):
        loaded(folder, "int8")


def test_no_eight_bits_on_another_device(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    with pytest.raises(ModelError, match="on the CPU only"):
        LanguageModel.from_folder(folder, name="tiny", fingerprint="sha256:0", dtype="int8", device="meta")


@needs_vnni
def test_a_processor_made_for_it_multiplies_exactly() -> None:
    """By itself: where this runs, nothing stands in for its products."""
    assert can_multiply_exactly()


def test_saturating_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bit.torch, "_int_mm", in_integers)
    assert can_multiply_exactly.__wrapped__()
    monkeypatch.setattr(eight_bit.torch, "_int_mm", lambda *sides: in_integers(*sides).clamp(-(2**15), 2**15 - 1))
    assert not can_multiply_exactly.__wrapped__()
    monkeypatch.delattr(eight_bit.torch, "_int_mm")
    assert not can_multiply_exactly.__wrapped__()


@needs_vnni
def test_products_of_a_processor_from_before_are_refused() -> None:
    """oneDNN computes as such a processor does where it is told to, and saturates."""
    program = "from safe_retrieval.backbone.eight_bit import can_multiply_exactly as can; print(can())"
    older = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=older, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
