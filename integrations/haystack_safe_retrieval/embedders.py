"""Haystack's two kinds of embedder: one for a query's text, one for documents. Models are loaded by ``warm_up``."""

from __future__ import annotations

import asyncio
import threading
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from haystack import Document, component, default_from_dict, default_to_dict

from safe_retrieval.errors import InputError
from safe_retrieval.models.catalog import DEFAULT_DOCUMENT_ENCODER
from safe_retrieval.retrieval.arms import Arm, ArmLoader, arm_from
from safe_retrieval.types import Encoder

_LOADING = threading.Lock()
"""Runs that come at once, each in a thread, load once; a component's own lock would keep it from being copied."""


_Component = TypeVar("_Component")


def _copied_around(original: _Component, encoder: Encoder | None, memo: dict[int, Any]) -> _Component:
    """A deep copy but for the encoder: nobody changes its weights, and they are large."""
    twin = memo[id(original)] = copy(original)  # noted first: what Haystack hangs on a component points back at it
    memo[id(encoder)] = encoder
    twin.__dict__.update(deepcopy(original.__dict__, memo))
    return twin


@component
class SafeTextEmbedder:
    """Embeds a query: by the response encoder, or as another arm says.

    Give its ``embedding`` to any embedding retriever whose documents were embedded by :class:`SafeDocumentEmbedder`, or
    by any other component with the same document encoder.

    Args:
        arm: ``output``, ``blend``, ``hyde`` or ``input``.
        document_encoder: name, hub id or folder.
        adapter: folder of a response adapter; ``None`` takes the one shipped for backbone and document encoder.
        backbone: name, hub id or folder of the language model; ``None`` takes the adapter's, or the default.
        policy: name of a response policy, or a system prompt; ``None`` takes the adapter's.
        dtype: what the language model computes in: ``auto``, ``float32``, ``bfloat16`` or ``int8``.
        prefix: put before each text.
        suffix: put behind each text.
        offline: open no connection.

    Raises:
        InputError: no such arm.
    """

    def __init__(
        self,
        *,
        arm: str = Arm.OUTPUT.value,
        document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
        adapter: str | None = None,
        backbone: str | None = None,
        policy: str | None = None,
        dtype: str = "auto",
        prefix: str = "",
        suffix: str = "",
        offline: bool = False,
    ) -> None:
        self.arm = arm_from(arm).value
        self.document_encoder = document_encoder
        self.adapter = adapter
        self.backbone = backbone
        self.policy = policy
        self.dtype = dtype
        self.prefix = prefix
        self.suffix = suffix
        self.offline = offline
        self._encoder: Encoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings, in Haystack's form."""
        return default_to_dict(  # type: ignore[no-any-return]
            self,
            arm=self.arm,
            document_encoder=self.document_encoder,
            adapter=self.adapter,
            backbone=self.backbone,
            policy=self.policy,
            dtype=self.dtype,
            prefix=self.prefix,
            suffix=self.suffix,
            offline=self.offline,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SafeTextEmbedder:
        """A copy with the same models, as pipelines and agents make them."""
        return _copied_around(self, self._encoder, memo)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SafeTextEmbedder:
        """A component with these settings."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def warm_up(self) -> None:
        """Load the models, once.

        Raises:
            InputError: the arm has no vectors.
            EncoderMismatchError: the adapter was trained for another document encoder.
            AdapterError, ModelError: the adapter or a model cannot be had.
        """
        self._loaded()

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed one query.

        Args:
            text: the query.

        Returns:
            ``embedding``: d floats, unit norm; ``meta``: ``model``, and ``refusal``, the probability that the backbone
            would refuse, or ``None`` where the arm has no verdict.

        Raises:
            InputError: ``text`` is no string.
        """
        if not isinstance(text, str):
            raise InputError(
                f"expected one text, got {type(text).__name__}; documents are embedded by SafeDocumentEmbedder"
            )
        encoder = self._loaded()
        vectors, refusal = encoder.encode([f"{self.prefix}{text}{self.suffix}"], progress=False)
        verdict = None if refusal is None else float(refusal[0])
        return {"embedding": vectors[0].tolist(), "meta": {"model": encoder.name, "refusal": verdict}}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As :meth:`run`, in a thread of its own."""
        found: dict[str, Any] = await asyncio.to_thread(self.run, text)
        return found

    def _loaded(self) -> Encoder:
        with _LOADING:
            if self._encoder is None:
                loader = ArmLoader(
                    self.document_encoder,
                    adapter=self.adapter,
                    backbone=self.backbone,
                    offline=self.offline,
                    policy=self.policy,
                    dtype=self.dtype,
                )
                self._encoder = loader.paired(arm_from(self.arm))
            return self._encoder


@component
class SafeDocumentEmbedder:
    """Embeds documents by the document encoder; no language model is needed.

    Args:
        document_encoder: name, hub id or folder.
        prefix: put before each text.
        suffix: put behind each text.
        batch_size: documents in one forward pass.
        progress_bar: show a bar on stderr.
        meta_fields_to_embed: metadata that is embedded before the content.
        embedding_separator: stands between those.
        offline: open no connection.
    """

    def __init__(
        self,
        *,
        document_encoder: str = DEFAULT_DOCUMENT_ENCODER,
        prefix: str = "",
        suffix: str = "",
        batch_size: int = 32,
        progress_bar: bool = False,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        offline: bool = False,
    ) -> None:
        self.document_encoder = document_encoder
        self.prefix = prefix
        self.suffix = suffix
        self.batch_size = batch_size
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self.offline = offline
        self._encoder: Encoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings, in Haystack's form."""
        return default_to_dict(  # type: ignore[no-any-return]
            self,
            document_encoder=self.document_encoder,
            prefix=self.prefix,
            suffix=self.suffix,
            batch_size=self.batch_size,
            progress_bar=self.progress_bar,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            offline=self.offline,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SafeDocumentEmbedder:
        """A copy with the same models, as pipelines and agents make them."""
        return _copied_around(self, self._encoder, memo)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SafeDocumentEmbedder:
        """A component with these settings."""
        return default_from_dict(cls, data)  # type: ignore[no-any-return]

    def warm_up(self) -> None:
        """Load the model, once.

        Raises:
            ModelError: it cannot be had, or is no sentence-transformers model.
        """
        self._loaded()

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: n documents; they stay as they are.

        Returns:
            ``documents``: copies of them with an ``embedding`` of d floats, unit norm; ``meta``: ``model``.

        Raises:
            InputError: ``documents`` is no list of Haystack's documents.
        """
        if not isinstance(documents, list) or not all(isinstance(each, Document) for each in documents):
            raise InputError("expected a list of haystack documents; a query's text is embedded by SafeTextEmbedder")
        encoder = self._loaded()
        texts = [self._text(document) for document in documents]
        vectors = encoder.encode_documents(texts, batch_size=self.batch_size, progress=self.progress_bar)
        embedded = [replace(each, embedding=row) for each, row in zip(documents, vectors.tolist(), strict=True)]
        return {"documents": embedded, "meta": {"model": encoder.name}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As :meth:`run`, in a thread of its own."""
        found: dict[str, Any] = await asyncio.to_thread(self.run, documents)
        return found

    def _text(self, document: Document) -> str:
        values = [document.meta.get(name) for name in self.meta_fields_to_embed]
        parts = [*(str(value) for value in values if value is not None), document.content or ""]
        return f"{self.prefix}{self.embedding_separator.join(parts)}{self.suffix}"

    def _loaded(self) -> Encoder:
        with _LOADING:
            if self._encoder is None:
                from safe_retrieval.encoder.document_encoders import load_document_encoder

                self._encoder = load_document_encoder(self.document_encoder, offline=self.offline)
            return self._encoder
