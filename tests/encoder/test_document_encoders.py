from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safe_retrieval.audit.models import LocalModels
from safe_retrieval.backbone.language_model import LanguageModel
from safe_retrieval.encoder.document_encoders import load_document_encoder
from safe_retrieval.encoder.pooled import PooledEncoder
from safe_retrieval.errors import ModelError
from safe_retrieval.index.builder import build_index
from safe_retrieval.index.folder import load_index
from safe_retrieval.index.recheck import reencoding_faults
from tests.support.corpora import small_corpus
from tests.support.tiny_models import save_tiny_model, tiny_model

TEXTS = ["the violin", "the harbour of the sea"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model")


@pytest.mark.parametrize("kind", ["pooled", "llm2vec"])
def test_an_index_names_the_model_that_it_was_built_with(folder: Path, tmp_path: Path, kind: str) -> None:
    encoder = load_document_encoder(f"{kind}:{folder}", offline=True)
    direct = PooledEncoder(LanguageModel.load(str(folder), offline=True), bidirectional=kind == "llm2vec")
    assert encoder.space == direct.space
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), direct.encode_documents(TEXTS))
    build_index(small_corpus(8), encoder, tmp_path / "index")
    with load_index(tmp_path / "index") as index:
        again = load_document_encoder(index.manifest.encoder.name, offline=True)
        assert reencoding_faults(index, again) == []


def test_a_backbone_that_is_loaded_is_shared(folder: Path) -> None:
    assert PooledEncoder(tiny_model()).name == f"pooled:{tiny_model().name}"
    models = LocalModels(f"pooled:{folder}", backbone=str(folder), offline=True)
    document = models.document.encoder
    assert isinstance(document, PooledEncoder)
    assert document.torch_modules[0] is models._language_model.model


def test_documents_are_encoded_as_ever_whatever_the_queries_are_read_in(folder: Path) -> None:
    models = LocalModels(f"pooled:{folder}", backbone=str(folder), dtype="float64", offline=True)
    document = models.document.encoder
    assert isinstance(document, PooledEncoder)
    assert models._language_model.precision == "float64"
    assert document.torch_modules[0] is not models._language_model.model
    assert models.document.record["document_encoder"]["dtype"] == document.model.precision != "float64"


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="checkpoint folder after 'llm2vec:'"):
        load_document_encoder(f"llm2vec:{tmp_path / 'none'}", offline=True)
    with pytest.raises(ModelError):
        load_document_encoder("pooled:nobody/nothing", offline=True)
