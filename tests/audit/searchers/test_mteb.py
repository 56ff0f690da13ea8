from __future__ import annotations

from types import SimpleNamespace

import mteb
import numpy as np
import pytest

from safe_retrieval.audit.searchers.mteb import MtebEncoder
from safe_retrieval.errors import ModelError, OfflineError


def test_a_model_that_mteb_knows() -> None:
    encoder = MtebEncoder("mteb/baseline-random-encoder")
    vectors = encoder.encode_queries(["one", "two"])
    assert vectors.shape == (2, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert encoder.encode(["one"]).refusal is None
    assert encoder.encode_documents(["a passage"]).dtype == np.float32
    assert encoder.name == "mteb/baseline-random-encoder"
    assert encoder.space.startswith("sha256:")


def test_models_that_cannot_be_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="mteb cannot load nobody/nothing"):
        MtebEncoder("nobody/nothing")
    with monkeypatch.context() as patched:
        patched.setattr(mteb, "get_model", lambda name: object())
        with pytest.raises(ModelError, match="is no encoder for mteb"):
            MtebEncoder("mteb/baseline-random-encoder")
    monkeypatch.setattr(
        mteb, "get_model_meta", lambda name: SimpleNamespace(loader_kwargs={"trust_remote_code": True}, revision="1")
    )
    with pytest.raises(ModelError, match="would run code from the hub"):
        MtebEncoder("someone/model")


def test_offline_no_model_is_looked_for_in_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb, "get_model", lambda name: pytest.fail("a model was loaded"))
    with pytest.raises(OfflineError, match="offline was asked for"):
        MtebEncoder("intfloat/e5-small-v2", offline=True)


def test_the_environment_asks_for_offline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SAFE_RETRIEVAL_OFFLINE", "1")
    with pytest.raises(OfflineError, match="offline was asked for"):
        MtebEncoder("intfloat/e5-small-v2")
