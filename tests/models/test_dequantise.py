"""A tiny GGUF file, made here, through the real readers."""

from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_retrieval.errors import DiskFullError, ModelError
from safe_retrieval.models.dequantise import _values, dequantise
from safe_retrieval.models.digest import sha256_of
from safe_retrieval.models.fetch import resolve
from safe_retrieval.models.progress import Reporter
from safe_retrieval.models.record import ModelKind

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SILENT = Reporter(enabled=False)


def _head_width(architecture: str) -> int:
    """Of Qwen3 it is 128 whatever the width of the model, and transformers takes it for granted."""
    return 128 if architecture == "qwen3" else HIDDEN // HEADS


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"output_norm.weight": (HIDDEN,)}
    head = _head_width(architecture)
    for layer in range(LAYERS):
        wide, narrow = head * HEADS, head * KV_HEADS
        block = {
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
            "attn_q.weight": (wide, HIDDEN),
            "attn_q.bias": (wide,),
            "attn_k.weight": (narrow, HIDDEN),
            "attn_k.bias": (narrow,),
            "attn_v.weight": (narrow, HIDDEN),
            "attn_v.bias": (narrow,),
            "attn_output.weight": (HIDDEN, wide),
            "ffn_gate.weight": (INTERMEDIATE, HIDDEN),
            "ffn_up.weight": (INTERMEDIATE, HIDDEN),
            "ffn_down.weight": (HIDDEN, INTERMEDIATE),
        }
        if architecture == "qwen3":
            block |= {f"attn_{part}_norm.weight": (head,) for part in "qk"}
        if architecture != "qwen2":
            block = {name: shape for name, shape in block.items() if not name.endswith(".bias")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _write(
    path: Path, *, tied: bool, omit: str = "", extra: str = "", architecture: str = "qwen2"
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """A model of 8-bit blocks; returns the exact values of its quantised tensors, (rows, columns) float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize

    tokens = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ", "ab", *SPECIAL]
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(_head_width(architecture))
    writer.add_value_length(_head_width(architecture))
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 3)
    writer.add_pad_token_id(len(tokens) - 3)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    random, exact = np.random.default_rng(3), {}
    shapes = {"token_embd.weight": (len(tokens), HIDDEN), **_shapes(architecture)}
    if not tied:
        shapes["output.weight"] = (len(tokens), HIDDEN)
    if extra:
        shapes[extra] = (HIDDEN,)
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name == omit:
            continue
        if len(shape) == 1:
            writer.add_tensor(name, values)
            continue
        blocks = quantize(values, GGMLQuantizationType.Q8_0)
        exact[name] = dequantize(blocks, GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_folder_loads_without_the_file_and_holds_its_values(tmp_path: Path, target: Path, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exact = _write(tmp_path / "tiny.gguf", tied=tied)
    dequantise(tmp_path / "tiny.gguf", target, SILENT)
    (tmp_path / "tiny.gguf").unlink()
    model, loading = AutoModelForCausalLM.from_pretrained(target, dtype="auto", output_loading_info=True)
    assert {key: list(value) for key, value in loading.items() if value} == {}
    assert model.dtype == torch.bfloat16
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    # dequantised to float32, then rounded once to bfloat16
    for name, tensor in (
        ("token_embd.weight", model.model.embed_tokens.weight),
        ("blk.1.ffn_down.weight", model.model.layers[1].mlp.down_proj.weight),
        ("blk.0.attn_q.weight", model.model.layers[0].self_attn.q_proj.weight),
        ("token_embd.weight" if tied else "output.weight", model.lm_head.weight),
    ):
        assert torch.equal(tensor, torch.from_numpy(exact[name]).to(torch.bfloat16)), name
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode(tokenizer("<|im_start|>ab c<|im_end|>").input_ids) == "<|im_start|>ab c<|im_end|>"
    assert tokenizer.apply_chat_template([{"content": "x"}], tokenize=False) == "<|im_start|>x<|im_end|>"


def test_the_header_is_read_once(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a million small pieces, so each reading takes as long as unpacking some hundred million weights."""
    import gguf

    _write(tmp_path / "tiny.gguf", tied=True)
    readings: list[Path] = []
    read = gguf.GGUFReader.__init__
    monkeypatch.setattr(
        gguf.GGUFReader, "__init__", lambda self, path, *rest: readings.append(Path(path)) or read(self, path, *rest)
    )
    before = gguf.GGUFReader
    dequantise(tmp_path / "tiny.gguf", target, SILENT)
    assert readings == [tmp_path / "tiny.gguf"]
    assert gguf.GGUFReader is before


def test_models_may_be_unpacked_at_the_same_time(tmp_path: Path) -> None:
    import gguf

    before = gguf.GGUFReader
    names = ("qwen2", "llama", "qwen3")
    for name in names:
        _write(tmp_path / f"{name}.gguf", tied=True, architecture=name)
        (tmp_path / name).mkdir()
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: dequantise(tmp_path / f"{name}.gguf", tmp_path / name, SILENT), names))
    kinds = [json.loads((tmp_path / name / "config.json").read_text())["model_type"] for name in names]
    assert tuple(kinds) == names
    assert gguf.GGUFReader is before


def test_blocks_that_the_library_cannot_unpack_are_named(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(data: object, kind: object) -> None:
        raise NotImplementedError(f"{kind} of {type(data)}")

    _write(tmp_path / "tiny.gguf", tied=True)
    monkeypatch.setattr("gguf.dequantize", unknown)
    with pytest.raises(ModelError, match="quantised in a way that cannot be unpacked"):
        dequantise(tmp_path / "tiny.gguf", target, SILENT)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0", "F16"])
@pytest.mark.parametrize("rows", [1, 5, 700], ids="{} rows".format)
def test_however_many_blocks_are_unpacked_together(kind: str, rows: int) -> None:
    from gguf import GGMLQuantizationType, dequantize, quantize

    number = GGMLQuantizationType[kind]
    stored = quantize(np.random.default_rng(5).standard_normal((rows, 896)).astype(np.float32), number)
    assert np.array_equal(_values(stored, number), dequantize(stored, number).ravel())


def test_nothing_of_the_file_or_the_machine_is_left_in_the_configuration(tmp_path: Path, target: Path) -> None:
    _write(tmp_path / "tiny.gguf", tied=True)
    dequantise(tmp_path / "tiny.gguf", target, SILENT)
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert "quantization_config" not in config
    assert all(str(tmp_path) not in path.read_text() for path in target.glob("*.json"))
    modes = {path.stat().st_mode for path in target.iterdir()}
    assert len(modes) == 1  # the weights are as readable as the rest


def test_a_file_that_lacks_weights_is_refused(tmp_path: Path, target: Path) -> None:
    _write(tmp_path / "tiny.gguf", tied=True, omit="blk.1.ffn_up.weight")
    with pytest.raises(
        ModelError, match=r"tiny\.gguf lacks blk\.1\.ffn_up\.weight, which its architecture needs as model"
    ):
        dequantise(tmp_path / "tiny.gguf", target, SILENT)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path, target: Path) -> None:
    _write(tmp_path / "tiny.gguf", tied=True, extra="rope_freqs.weight")
    with pytest.raises(ModelError, match=r"has no place for: rope_freqs\.weight"):
        dequantise(tmp_path / "tiny.gguf", target, SILENT)


def test_another_architecture_is_refused(tmp_path: Path, target: Path) -> None:
    _write(tmp_path / "tiny.gguf", tied=True, architecture="gemma")
    with pytest.raises(ModelError, match="is of the architecture gemma, expected llama or qwen2 or qwen3"):
        dequantise(tmp_path / "tiny.gguf", target, SILENT)


def test_qwen3_with_its_norms_of_queries_and_keys(tmp_path: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    exact = _write(tmp_path / "tiny.gguf", tied=True, architecture="qwen3")
    dequantise(tmp_path / "tiny.gguf", target, SILENT)
    model, loading = AutoModelForCausalLM.from_pretrained(target, dtype="auto", output_loading_info=True)
    assert {key: list(value) for key, value in loading.items() if value} == {}
    assert (type(model).__name__, model.config.head_dim) == ("Qwen3ForCausalLM", 128)
    attention = model.model.layers[1].self_attn
    assert torch.equal(attention.q_proj.weight, torch.from_numpy(exact["blk.1.attn_q.weight"]).to(torch.bfloat16))
    assert attention.k_norm.weight.shape == (128,)
    assert attention.k_norm.weight.float().std().item() > 0.5  # the file's, and not the ones of a new layer


def test_llama_s_rotary_rows_are_put_back(tmp_path: Path, target: Path) -> None:
    """A row r of a head in GGUF is dimension (r % 2) * half + r // 2 of that head."""
    from safetensors.torch import load_file

    exact = _write(tmp_path / "tiny.gguf", tied=True, architecture="llama")
    dequantise(tmp_path / "tiny.gguf", target, SILENT)
    weights = load_file(target / "model.safetensors")
    for name, gguf_name, heads in (("q_proj", "attn_q", HEADS), ("k_proj", "attn_k", KV_HEADS)):
        stored = exact[f"blk.0.{gguf_name}.weight"]
        size = len(stored) // heads
        expected = np.empty_like(stored)
        for row in range(len(stored)):
            head, inside = divmod(row, size)
            expected[head * size + (inside % 2) * size // 2 + inside // 2] = stored[row]
        found = weights[f"model.layers.0.self_attn.{name}.weight"].float().numpy()
        np.testing.assert_allclose(found, expected, rtol=2**-8)


def test_what_is_no_gguf(tmp_path: Path, target: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(ModelError, match=r"x\.gguf is not a sound GGUF file"):
        dequantise(tmp_path / "x.gguf", target, SILENT)


@pytest.mark.parametrize(
    ("key", "offset", "bit"),
    [
        (b"tokenizer.ggml.tokens", 2, 1),  # the list of tokens goes by another name
        (b"tokenizer.ggml.merges", 30, 1),  # merges of what are no tokens
        (b"qwen2.block_count", 24, 1 << 7),  # millions of layers
        (b"qwen2.attention.head_count", 30, 1 << 2),  # no heads
        (b"tokenizer.ggml.token_type", 36, 1 << 7),  # a list far longer than the file
    ],
)
def test_damage_in_the_header_is_named(tmp_path: Path, home: Path, key: bytes, offset: int, bit: int) -> None:
    path = tmp_path / "tiny.gguf"
    _write(path, tied=True)
    data = bytearray(path.read_bytes())
    data[data.index(key) + offset] ^= bit
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        resolve(str(path))
    assert list((home / "partial").iterdir()) == []


def test_a_file_that_ends_early_is_named(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "tiny.gguf"
    _write(path, tied=True)
    whole = path.read_bytes()
    for length in (0, 3, 20, 1_000, 3_000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"tiny\.gguf is not a sound GGUF file .*; download it again"):
            dequantise(path, target, SILENT)


def test_a_gguf_of_the_user_s_is_unpacked_once_by_its_bytes(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "tiny.gguf", tied=True)
    model = resolve(str(tmp_path / "tiny.gguf"), kind=ModelKind.LANGUAGE_MODEL)
    assert model.fingerprint == f"sha256:{sha256_of(tmp_path / 'tiny.gguf')}"
    assert (model.path / "model.safetensors").is_file()
    (tmp_path / "tiny.gguf").rename(tmp_path / "renamed.gguf")
    monkeypatch.setattr("safe_retrieval.models.fetch.dequantise", None)  # a second unpacking would fail
    again = resolve(str(tmp_path / "renamed.gguf"))
    assert (again.path, again.fingerprint) == (model.path, model.fingerprint)
    assert list((home / "partial").iterdir()) == []


def test_a_full_disk_while_unpacking_leaves_nothing(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    _write(tmp_path / "tiny.gguf", tied=True)
    monkeypatch.setattr("safe_retrieval.models.dequantise._write", full)
    with pytest.raises(DiskFullError, match="is full"):
        resolve(str(tmp_path / "tiny.gguf"))
    assert list((home / "partial").iterdir()) == []
    assert not (home / "models").exists()
