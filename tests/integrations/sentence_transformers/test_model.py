"""The factory's model inside sentence-transformers: its encoding methods, its evaluators, its pool, its folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import semantic_search

from safe_retrieval.encoder.input import InputEncoder
from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.encoder.response import ResponseEncoder
from safe_retrieval.errors import (
    AdapterError,
    AdapterFormatError,
    EncoderMismatchError,
    InputError,
)
from sentence_transformers_safe_retrieval import (
    SafeRetrievalModule,
    load_sentence_transformer,
    safe_sentence_transformer,
)
from tests.encoder.test_input import save_tiny_model
from tests.support.encoders import HashEncoder
from tests.support.tiny_pair import TinyPair

TEXTS = ["the violin", "a harbour of copper", "", "<|im_end|> the harbour", "copper " * 60]


@pytest.fixture(scope="module")
def model(tiny: TinyPair) -> SentenceTransformer:
    return safe_sentence_transformer(**tiny._asdict(), device="cpu", offline=True)


@pytest.fixture(scope="module")
def response(tiny: TinyPair) -> ResponseEncoder:
    return ResponseEncoder.load(tiny.adapter, backbone=tiny.backbone, offline=True)


@pytest.fixture(scope="module")
def document(tiny: TinyPair) -> InputEncoder:
    return InputEncoder.load(tiny.document_encoder, offline=True)


def same(found: Any, expected: Any, *, within: float = 1e-5) -> bool:
    return bool(np.abs(np.asarray(found) - np.asarray(expected)).max() < within)


def hashed(**settings: Any) -> SentenceTransformer:
    """A model over stand-ins, whose rankings mean something."""
    pair = PairedEncoder(HashEncoder("asks", **settings), HashEncoder("stores"))
    return SentenceTransformer(modules=[SafeRetrievalModule(pair)], device="cpu", similarity_fn_name="cosine")


def test_queries_and_documents_go_through_their_own_doors(
    model: SentenceTransformer, response: ResponseEncoder, document: InputEncoder
) -> None:
    # Other batches are padded otherwise, which shows in the digits of bfloat16, where that is native.
    assert same(model.encode_query(TEXTS, batch_size=2), response.encode_queries(TEXTS), within=0.01)
    assert same(model.encode_document(TEXTS, batch_size=2), document.encode_documents(TEXTS))
    assert model.encode_query("the violin").shape == (16,)
    assert model.encode_query(TEXTS).dtype == np.float32
    assert isinstance(model.encode_query(TEXTS, convert_to_tensor=True), torch.Tensor)
    assert model.get_embedding_dimension() == 16


def test_a_plain_encode_is_no_way_around_the_response_encoder(
    model: SentenceTransformer, response: ResponseEncoder
) -> None:
    assert same(model.encode(TEXTS), response.encode_queries(TEXTS))


def test_prompts_stand_before_the_text(model: SentenceTransformer, response: ResponseEncoder) -> None:
    asked = model.encode_query(["the violin"], prompt="Answer: ")
    assert same(asked, response.encode_queries(["Answer: the violin"]))


def test_the_refusal_probability_is_among_the_features(model: SentenceTransformer, response: ResponseEncoder) -> None:
    (features,) = model.encode_query(["the violin"], output_value=None)
    refusal = response.encode(["the violin"]).refusal
    assert refusal is not None
    assert float(features["refusal"]) == pytest.approx(float(refusal[0]), abs=1e-5)


@pytest.mark.parametrize(("arm", "sides"), [("input", (True, True)), ("blend", (False, True)), ("hyde", (False, True))])
def test_other_arms(tiny: TinyPair, document: InputEncoder, arm: str, sides: tuple[bool, bool]) -> None:
    own = safe_sentence_transformer(**tiny._asdict(), arm=arm, device="cpu", offline=True)
    vectors = own.encode_query(TEXTS[:2]), own.encode_document(TEXTS[:2])
    expected = document.encode_queries(TEXTS[:2]), document.encode_documents(TEXTS[:2])
    assert tuple(same(found, wanted) for found, wanted in zip(vectors, expected, strict=True)) == sides


def test_semantic_search(model: SentenceTransformer) -> None:
    own = hashed()
    corpus = ["copper lies in the north", "the violin is old", "a river"]
    hits = semantic_search(
        own.encode_query(["old violin"], convert_to_tensor=True), own.encode_document(corpus, convert_to_tensor=True)
    )
    assert hits[0][0]["corpus_id"] == 1
    assert model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS)).shape == (5, 5)


def test_the_information_retrieval_evaluator(tmp_path: Path) -> None:
    evaluator = InformationRetrievalEvaluator(
        {"q1": "old violin", "q2": "copper north"},
        {"d1": "the violin is old", "d2": "copper lies in the north", "d3": "a river"},
        {"q1": {"d1"}, "q2": {"d2"}},
        name="tiny",
    )
    results = evaluator(hashed(), output_path=str(tmp_path))
    assert results["tiny_cosine_accuracy@1"] == 1.0
    assert list(tmp_path.glob("*.csv"))


def test_vectors_that_a_call_shortens_are_compared_by_angle(model: SentenceTransformer) -> None:
    short = model.encode_document(TEXTS, truncate_dim=8)
    assert not np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-3)
    assert np.allclose(np.diag(model.similarity(short, short)), 1, atol=1e-5)


def test_another_process_gives_what_this_one_gives(model: SentenceTransformer) -> None:
    texts = [f"the violin of w{number}" for number in range(6)]
    pool = model.start_multi_process_pool(["cpu"])  # two of them are in tests/real
    try:
        asked = model.encode_query(texts, pool=pool, chunk_size=2)
        stored = model.encode_document(texts, pool=pool, chunk_size=4)
    finally:
        model.stop_multi_process_pool(pool)
    assert same(asked, model.encode_query(texts))
    assert same(stored, model.encode_document(texts))


def test_a_saved_model_comes_back(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "saved"))
    again = load_sentence_transformer(tmp_path / "saved", device="cpu", offline=True)
    assert np.array_equal(again.encode_query(TEXTS), model.encode_query(TEXTS))
    assert np.array_equal(again.encode_document(TEXTS), model.encode_document(TEXTS))
    assert again.similarity_fn_name == "cosine"
    assert "load_sentence_transformer" in (tmp_path / "saved" / "README.md").read_text()
    assert not list((tmp_path / "saved").rglob("*.bin"))
    again.save_pretrained(str(tmp_path / "saved"))  # over itself
    load_sentence_transformer(tmp_path / "saved", device="cpu", offline=True)


def test_settings_and_policy_come_back(tiny: TinyPair, tmp_path: Path) -> None:
    settings = {"prompts": {"query": "Answer: "}, "truncate_dim": 8, "similarity_fn_name": "cosine"}
    policy = "You answer briefly."
    first = safe_sentence_transformer(
        **tiny._asdict(), arm="blend", policy=policy, device="cpu", offline=True, **settings
    )
    first.save(str(tmp_path))
    again = load_sentence_transformer(tmp_path, device="cpu", offline=True)
    assert (again.prompts["query"], again.truncate_dim, again.similarity_fn_name) == ("Answer: ", 8, "cosine")
    assert np.array_equal(again.encode_query(TEXTS), first.encode_query(TEXTS))
    record = json.loads((tmp_path / "safe_retrieval.json").read_text())
    assert (record["arm"], record["policy"]["system_prompt"]) == ("blend", policy)
    assert record["adapter"].startswith("sha256:")


def test_shortened_vectors_are_compared_by_cosine(tiny: TinyPair) -> None:
    shortened = safe_sentence_transformer(**tiny._asdict(), device="cpu", offline=True, truncate_dim=4)
    vectors = shortened.encode_document(TEXTS)
    assert np.allclose(np.diag(shortened.similarity(vectors, vectors)), 1, atol=1e-5)


def test_the_hosts_own_loader_asks_for_trust(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path))


def test_nothing_but_our_module_is_loaded(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([{**modules[0], "type": "os.system"}]))
    with pytest.raises(InputError, match=r"expected one module.*os\.system"):
        load_sentence_transformer(tmp_path, offline=True)


def test_a_folder_that_was_changed_is_refused(model: SentenceTransformer, tiny: TinyPair, tmp_path: Path) -> None:
    def saved(name: str) -> Path:
        model.save_pretrained(str(tmp_path / name))
        return tmp_path / name

    weights = saved("flipped") / "adapter" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(AdapterFormatError):
        load_sentence_transformer(tmp_path / "flipped", offline=True)

    record = saved("other") / "safe_retrieval.json"
    record.write_text(record.read_text().replace('"adapter": "sha256:', '"adapter": "sha256:0'))
    with pytest.raises(AdapterError, match="holds adapter"):
        load_sentence_transformer(tmp_path / "other", offline=True)

    record = saved("newer") / "safe_retrieval.json"
    record.write_text(record.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="version"):
        load_sentence_transformer(tmp_path / "newer", offline=True)

    (saved("cut") / "safe_retrieval.json").write_text("{")
    with pytest.raises(InputError, match="truncated"):
        load_sentence_transformer(tmp_path / "cut", offline=True)
    with pytest.raises(InputError, match=r"modules\.json"):
        load_sentence_transformer(tmp_path / "nowhere", offline=True)
    (saved("number") / "modules.json").write_text("7")
    with pytest.raises(InputError, match="expected one module"):
        load_sentence_transformer(tmp_path / "number", offline=True)


def test_models_may_move_and_must_be_the_same(model: SentenceTransformer, tiny: TinyPair, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "saved"))
    shutil.copytree(tiny.document_encoder, tmp_path / "moved")
    moved = load_sentence_transformer(
        tmp_path / "saved", document_encoder=str(tmp_path / "moved"), device="cpu", offline=True
    )
    assert same(moved.encode_document(TEXTS), model.encode_document(TEXTS))
    other = save_tiny_model(tmp_path / "other", prompts={"document": "passage : "})
    with pytest.raises(EncoderMismatchError):
        load_sentence_transformer(tmp_path / "saved", document_encoder=str(other), device="cpu", offline=True)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_other_backends_are_refused(model: SentenceTransformer, tmp_path: Path, backend: str) -> None:
    with pytest.raises(InputError, match="torch backend"):
        safe_sentence_transformer(backend=backend)
    model.save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="torch backend"):
        load_sentence_transformer(tmp_path, backend=backend)
    with pytest.raises(InputError, match="torch backend"):  # by the host's own loader, from someone who trusts the code
        SentenceTransformer(str(tmp_path), backend=backend, trust_remote_code=True)


def test_what_cannot_be_done_says_so(model: SentenceTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoder objects"):
        hashed().save(str(tmp_path))
    with pytest.raises(InputError, match="precision"):
        model.half()
    with pytest.raises(InputError, match="expected str"):
        model.encode_query([{"text": "the violin"}])
    with pytest.raises(InputError, match="input, output"):
        safe_sentence_transformer(arm="sideways")
    with pytest.raises(InputError, match="arm with vectors"):
        safe_sentence_transformer(arm="bm25")
