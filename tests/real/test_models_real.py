"""Real models by name, from wherever this machine can have them, into the user's own cache."""

from __future__ import annotations

import json

import numpy as np
import pytest

from safe_retrieval.models import catalog, inventory
from safe_retrieval.models.fetch import ResolvedModel, resolve
from safe_retrieval.models.record import ModelKind

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def minilm() -> ResolvedModel:
    return resolve(catalog.DEFAULT_DOCUMENT_ENCODER, kind=ModelKind.SENTENCE_ENCODER)


@pytest.fixture(scope="session")
def smollm() -> ResolvedModel:
    return resolve("smollm2-135m-instruct", kind=ModelKind.LANGUAGE_MODEL)


def test_a_second_resolve_opens_no_connection(minilm: ResolvedModel, smollm: ResolvedModel) -> None:
    for model in (minilm, smollm):
        assert resolve(model.name, offline=True) == model
        assert model.record is not None
        assert model.fingerprint == f"sha256:{model.record.weights.sha256}"


def test_every_byte_is_as_installed(minilm: ResolvedModel, smollm: ResolvedModel) -> None:
    for model in (minilm, smollm):
        assert inventory.verify(model.name).faults == ()


def test_the_encoder_loads_and_knows_what_is_alike(minilm: ResolvedModel) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm.path), device="cpu", local_files_only=True)
    question, answer, other = np.asarray(
        model.encode(
            ["Which city is the capital of France?", "Paris is the French capital.", "Bread rises because of yeast."],
            normalize_embeddings=True,
        )
    )
    assert question.shape == (minilm.record.dimension if minilm.record else 0,)
    assert question @ answer > 0.7
    assert question @ other < 0.2


def test_the_unpacked_model_loads_completely_and_answers(smollm: ResolvedModel) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = json.loads((smollm.path / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert not list(smollm.path.glob("*.gguf"))
    model, loading = AutoModelForCausalLM.from_pretrained(
        smollm.path, dtype=torch.bfloat16, output_loading_info=True, local_files_only=True
    )
    assert {key: list(value) for key, value in loading.items() if value} == {}
    assert smollm.record is not None
    assert sum(weight.numel() for weight in model.parameters()) == smollm.record.parameters
    tokenizer = AutoTokenizer.from_pretrained(smollm.path, local_files_only=True)
    prompt = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
