"""LlamaIndex's ``BaseEmbedding``: a query by the response encoder, a text by the document encoder."""

from __future__ import annotations

import asyncio
import threading
from functools import cached_property
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, model_validator

from safe_retrieval.encoder.paired import PairedEncoder
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm, ArmLoader

_LOADING = threading.Lock()
"""LlamaIndex asks for several batches at once, each in a thread, and from Python 3.12 on each of them could load the
models: ``cached_property`` has no lock any more. One of the object's own would keep it from being copied."""


class SafeRetrievalEmbedding(BaseEmbedding):
    """Embeds queries and texts through different encoders of one space; models are loaded on first use.

    A vector store whose texts were embedded with the document encoder (by LlamaIndex's own HuggingFace embedding, say)
    keeps them: ``VectorStoreIndex.from_vector_store(store, embed_model=SafeRetrievalEmbedding())``.

    Raises:
        ValueError: a setting is not what it should be (pydantic's ``ValidationError``).
    """

    model_name: str = Field(default="safe-retrieval", description="A name for traces and callbacks.")
    arm: Arm = Field(default=Arm.OUTPUT, description="How queries are encoded: output, blend, hyde, input.")
    document_encoder: str = Field(default=DEFAULT_DOCUMENT_ENCODER, description="Name, hub id or folder.")
    adapter: str | None = Field(default=None, description="Folder of a response adapter; None: the shipped one.")
    backbone: str | None = Field(default=None, description="Language model; None: the adapter's, or the default.")
    policy: str | None = Field(default=None, description="Response policy, by name or text; None: the adapter's.")
    dtype: str = Field(default="auto", description="What the language model computes in; int8: 8-bit integers.")
    offline: bool = Field(default=False, description="Open no connection.")

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes down when it serialises."""
        return "SafeRetrievalEmbedding"

    @model_validator(mode="after")
    def _check(self) -> SafeRetrievalEmbedding:
        if self.arm is Arm.BM25:
            raise InputError("expected an arm with vectors (output, blend, hyde, input), got bm25")
        if self.embeddings_cache is not None:
            raise InputError(
                "expected no embeddings_cache: it keeps vectors by their text alone, so a query that repeats a "
                "document's text would get the document's vector and not that of the response; leave it out"
            )
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy with the same models: nobody changes the weights, and they are large."""
        pair = self.__dict__.get("pair")  # where cached_property keeps it
        copied: Self = super().__deepcopy__({**(memo or {}), id(pair): pair})
        return copied

    @cached_property
    def pair(self) -> PairedEncoder:
        """The encoders, loaded now if they are not yet.

        Raises:
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        loader = ArmLoader(
            self.document_encoder,
            adapter=self.adapter,
            backbone=self.backbone,
            offline=self.offline,
            policy=self.policy,
            dtype=self.dtype,
        )
        return loader.paired(self.arm)

    def _loaded(self) -> PairedEncoder:
        with _LOADING:
            return self.pair

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._rows(self._loaded().encode_queries([query], progress=False))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._rows(self._loaded().encode_documents(texts, batch_size=self.embed_batch_size, progress=False))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    @staticmethod
    def _rows(vectors: Any) -> list[list[float]]:
        rows: list[list[float]] = vectors.tolist()
        return rows
