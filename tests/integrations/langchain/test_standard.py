"""The host's own suites, as they come: nothing overridden, nothing expected to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_safe_retrieval import SafeRetrievalEmbeddings, SafeRetrievalVectorStore, SafeRetriever
from tests.support.tiny_pair import TinyPair


class _OnTinyModels:
    """Random weights, loaded by folder as real ones are by name."""

    @pytest.fixture(autouse=True)
    def _tiny(self, tiny: TinyPair) -> None:
        self.params = {**tiny._asdict(), "offline": True}

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return SafeRetrievalEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return self.params


class TestEmbeddingsUnit(_OnTinyModels, EmbeddingsUnitTests):
    pass


class TestEmbeddings(_OnTinyModels, EmbeddingsIntegrationTests):
    pass


class TestVectorStore(VectorStoreIntegrationTests):
    """With embeddings of the host's own."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:
        return SafeRetrievalVectorStore.create(tmp_path / "index", self.get_embeddings())


class TestVectorStoreOfOurEmbeddings(VectorStoreIntegrationTests):
    """With ours, whose two doors are one here: the suite expects a text to be nearest to itself."""

    @pytest.fixture
    def vectorstore(self, known: None) -> VectorStore:
        return SafeRetrievalVectorStore.from_texts([], SafeRetrievalEmbeddings())


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _index(self, folder: Path) -> None:
        self.folder = folder

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return SafeRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {
            "index_path": str(self.folder),
            "embeddings": SafeRetrievalEmbeddings(arm="blend"),
            "on_refusal": "flag",
        }

    @property
    def retriever_query_example(self) -> str:
        return "old violin"
