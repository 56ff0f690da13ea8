"""LangChain's ``Embeddings``: queries by the response encoder, documents by its teacher."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from langchain_safe_retrieval.engine import EncodedQuery, EncoderEngine, EngineSettings
from safe_retrieval.encoder.policy import policy_from
from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm
from safe_retrieval.types import Encoder


class SafeRetrievalEmbeddings(Serializable, Embeddings):
    """Embeds queries and documents through different encoders of one space; vectors have unit norm.

    A vector store whose documents were embedded with the same document encoder, by whatever class, keeps its vectors.
    Models are loaded on first use. Calls from several threads or tasks share forward passes. Settings cannot be changed
    afterwards; they serialise (``langchain_core.load.dumps``), the models do not travel.

    Raises:
        ValueError: a setting is not what it should be (pydantic's ``ValidationError``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: Arm = Field(default=Arm.OUTPUT, description="How queries are encoded: output, blend, hyde, input.")
    document_encoder: str = Field(default=DEFAULT_DOCUMENT_ENCODER, description="Name, hub id or folder.")
    adapter: str | None = Field(default=None, description="Folder of a response adapter; None: the shipped one.")
    backbone: str | None = Field(default=None, description="Language model; None: the adapter's, or the default.")
    policy: str | None = Field(default=None, description="Response policy, by name or text; None: the adapter's.")
    dtype: str = Field(default="auto", description="What the language model computes in; int8: 8-bit integers.")
    offline: bool = Field(default=False, description="Open no connection.")
    batch_size: int = Field(default=32, ge=1, description="Most texts in one forward pass.")

    _engine: EncoderEngine = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> SafeRetrievalEmbeddings:
        if self.arm is Arm.BM25:
            raise InputError("expected an arm with vectors (output, blend, hyde, input), got bm25")
        if self.policy is not None:
            policy_from(self.policy)
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Prepare what will load the models."""
        super().model_post_init(context)
        self._engine = EncoderEngine(EngineSettings(**{name: getattr(self, name) for name in EngineSettings._fields}))

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain may write the settings down."""
        return True

    @property
    def documents_by(self) -> Encoder:
        """The encoder of documents, loaded now if it is not yet.

        Raises:
            ModelError: it cannot be had.
        """
        return self._engine.document_encoder()

    @property
    def queries_by(self) -> Encoder:
        """The encoder of queries, loaded now if it is not yet.

        Raises:
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        return self._engine.query_encoder()

    def encode_query(self, text: str, *, judged: bool = False) -> EncodedQuery:
        """A query's vector and refusal probability, in one forward pass.

        Args:
            text: the query.
            judged: whether a refusal probability is needed; the arm ``input``, which has none, then loads a response
                encoder for it.

        Raises:
            InputError: ``text`` is no string.
            EncoderMismatchError, AdapterError, ModelError: as :attr:`queries_by`.
        """
        return self._engine.submit(text, judged=judged).result()

    async def aencode_query(self, text: str, *, judged: bool = False) -> EncodedQuery:
        """As :meth:`encode_query`; no thread waits meanwhile."""
        return await asyncio.wrap_future(self._engine.submit(text, judged=judged))

    def embed_query(self, text: str) -> list[float]:
        """One query as d floats, unit norm."""
        row: list[float] = self.encode_query(text).vector.tolist()
        return row

    async def aembed_query(self, text: str) -> list[float]:
        """As :meth:`embed_query`; no thread waits meanwhile."""
        row: list[float] = (await self.aencode_query(text)).vector.tolist()
        return row

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Documents as rows of d floats, unit norm, in input order."""
        rows: list[list[float]] = self._engine.submit_documents(texts).result().tolist()
        return rows

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As :meth:`embed_documents`; no thread waits meanwhile."""
        rows: list[list[float]] = (await asyncio.wrap_future(self._engine.submit_documents(texts))).tolist()
        return rows
