"""InputEncoder on a tiny sentence-transformers model with random weights, made here; the real one is in tests/real."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safe_retrieval.encoder.input import InputEncoder, _marker_pieces, space_fingerprint, unit_rows
from safe_retrieval.errors import InputError, ModelError
from safe_retrieval.types import Encoder
from tests.support.tiny_models import unigram

DIMENSION = 16
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", "[", "]", "sep", "cls", "violin"]
WORDS += ["harbour", "copper", "the", "a", "x", *"bcdefgh", *(f"w{number}" for number in range(40))]


def save_tiny_model(folder: Path, prompts: dict[str, str] | None = None) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    source = folder / "bert"
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(source / "vocab.txt"), model_max_length=32).save_pretrained(source)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=DIMENSION,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(source)
    body = Transformer(str(source), max_seq_length=32)
    model = SentenceTransformer(modules=[body, Pooling(DIMENSION)], prompts=prompts, device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def encoder(model_path: Path) -> InputEncoder:
    return InputEncoder(model_path, name="tiny", fingerprint="sha256:1")


TEXTS = ["violin", "the harbour", "", " \n", "copper " * 200, "w1 w2 w3 w4", "x", "half \ud83d pair", "nul \0", "?" * 9]


def test_vectors_are_float32_unit_and_in_order(encoder: InputEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dimension) == ("tiny", DIMENSION)
    encoded = encoder.encode(TEXTS)
    assert encoded.refusal is None
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.shape == (len(TEXTS), DIMENSION)
    assert np.abs(np.linalg.norm(encoded.vectors, axis=1) - 1).max() < 1e-6
    one_by_one = np.concatenate([encoder.encode_queries([text]) for text in TEXTS])
    assert np.abs(encoded.vectors - one_by_one).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_and_order_do_not_matter(encoder: InputEncoder, batch_size: int) -> None:
    expected = encoder.encode_documents(TEXTS, batch_size=4)
    assert np.abs(encoder.encode_documents(TEXTS, batch_size=batch_size) - expected).max() < 1e-5
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = encoder.encode_documents([TEXTS[position] for position in order], batch_size=batch_size)
    assert np.abs(shuffled - expected[order]).max() < 1e-5


def test_agrees_with_sentence_transformers(encoder: InputEncoder, model_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["violin", "the harbour", "w1 w2 w3 w4"]
    own = SentenceTransformer(str(model_path), device="cpu").encode(texts, normalize_embeddings=True)
    assert np.abs(encoder.encode_queries(texts) - own).max() < 1e-5


def test_no_texts(encoder: InputEncoder) -> None:
    assert encoder.encode_queries([]).shape == (0, DIMENSION)


def test_blank_texts_are_all_the_same(encoder: InputEncoder) -> None:
    vectors = encoder.encode_queries(["", " ", "\n\t"])
    assert np.abs(vectors - vectors[0]).max() < 1e-6


def test_markers_in_a_text_are_text(encoder: InputEncoder) -> None:
    spelled, marker = encoder.encode_queries(["violin [ sep ] copper", "violin [SEP] copper"])
    assert spelled @ marker == pytest.approx(1, abs=1e-5)


def test_what_is_no_text_is_named(encoder: InputEncoder) -> None:
    with pytest.raises(InputError, match="text 1 is int"):
        encoder.encode_queries(["a", 1])  # type: ignore[list-item]
    with pytest.raises(InputError, match="one str"):
        encoder.encode_documents("a bare string")


def test_progress_goes_to_stderr(encoder: InputEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode_queries(["violin"] * 3, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Encoding with tiny" in captured.err


def test_prompts_of_the_model_are_used_and_belong_to_the_space(tmp_path: Path, encoder: InputEncoder) -> None:
    path = save_tiny_model(tmp_path, prompts={"query": "query: ", "passage": "passage: "})
    prompted = InputEncoder(path, name="tiny", fingerprint="sha256:1")
    assert (prompted.query_prompt, prompted.document_prompt) == ("query: ", "passage: ")
    assert np.allclose(prompted.encode_queries(["violin"]), encoder.encode_queries(["query: violin"]), atol=1e-5)
    assert np.allclose(prompted.encode_documents(["violin"]), encoder.encode_queries(["passage: violin"]), atol=1e-5)
    bare = InputEncoder(path, name="tiny", fingerprint="sha256:1", query_prompt="", document_prompt="")
    assert np.allclose(bare.encode_queries(["violin"]), encoder.encode_queries(["violin"]), atol=1e-5)
    assert bare.space == encoder.space != prompted.space


def test_space_is_pinned() -> None:
    # Indexes and adapters store this string; it must never change for the same model and prompts.
    plain = space_fingerprint("sha256:1", query_prompt="", document_prompt="")
    assert plain == "sha256:24340f26a4d585ad2b706574ccd426add645612993211fcd740e9cef735aef74"
    others = [
        space_fingerprint("sha256:2", query_prompt="", document_prompt=""),
        space_fingerprint("sha256:1", query_prompt="q", document_prompt=""),
        space_fingerprint("sha256:1", query_prompt="", document_prompt="q"),
    ]
    assert len({plain, *others}) == 4


def test_rows_without_direction_are_named() -> None:
    with pytest.raises(InputError, match=r"text 1 .*2 such"):
        unit_rows(np.array([[1, 0], [0, 0], [np.nan, 1]], dtype=np.float32))


def test_pickled_weights_are_never_loaded(model_path: Path, tmp_path: Path) -> None:
    shutil.copytree(model_path, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        InputEncoder(tmp_path / "model", name="tiny", fingerprint="sha256:1")


def test_code_from_elsewhere_is_never_run(model_path: Path, tmp_path: Path) -> None:
    shutil.copytree(model_path, tmp_path / "model")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "model" / "evil.py").write_text("raise SystemExit('code from the model folder was run')")
    with pytest.raises(ModelError, match="cannot be opened"):
        InputEncoder(tmp_path / "model", name="tiny", fingerprint="sha256:1")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        InputEncoder(tmp_path / "absent", name="x", fingerprint="")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be opened"):
        InputEncoder(tmp_path, name="x", fingerprint="")


def test_markers_that_a_vocabulary_has_as_pieces_are_broken_in_a_text() -> None:
    """As XLM-R's has, which multilingual encoders are made of: there ``</s>`` in a text was the end token."""
    model: Any = SimpleNamespace(tokenizer=unigram())
    pieces = _marker_pieces(model, "")
    assert pieces is not None
    assert pieces.findall("<s>old</s> a</s>b <unk>") == ["</s>", "</s>", "<unk>"]
    assert _marker_pieces(model, "query: </s>") is None  # a prompt that is written with them needs them read
    ids = unigram()("ab< /s>", add_special_tokens=False)["input_ids"]
    assert unigram().eos_token_id not in ids


def test_other_vocabularies_need_no_breaking(encoder: InputEncoder) -> None:
    assert encoder._pieces is None
    encoder._pieces = re.compile(re.escape("[SEP]"))
    try:
        spelled, broken = encoder.encode_queries(["violin [ SEP] copper", "violin [SEP] copper"])
    finally:
        encoder._pieces = None
    assert np.array_equal(spelled, broken)
