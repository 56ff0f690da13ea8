"""An embeddings endpoint of the kind that OpenAI began: texts in, vectors out; as an encoder of this package too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from safe_retrieval.audit.searchers.endpoint import Endpoint, EndpointSettings, NoAnswerError
from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.encoder.texts import BLANK
from safe_retrieval.types import FloatMatrix, QueryEncoding


class EmbeddingsEndpoint(EndpointSettings):
    """Where vectors come from: ``POST url`` with ``{"model": ..., "input": [...]}``.

    Attributes:
        model: its name, as the endpoint wants it.
        dimensions: length of a vector, for models that can be asked for several; ``None`` does not ask.
        query_prefix, document_prefix: text put before each query and each passage.
        texts: most in one request.
    """

    model: str = Field(min_length=1)
    dimensions: int | None = Field(default=None, gt=0)
    query_prefix: str = ""
    document_prefix: str = ""
    texts: int = Field(default=64, ge=1)


class EmbeddingsClient:
    """Vectors as the endpoint gives them: :class:`~safe_retrieval.audit.searching.Vectors`.

    Args:
        settings: see there.
        name: for messages.

    Raises:
        ConfigError: a variable of the environment is not set.
    """

    def __init__(self, settings: EmbeddingsEndpoint, name: str) -> None:
        self.settings = settings
        self._endpoint = Endpoint(settings, name)

    @property
    def identity(self) -> str:
        """Address, model, dimensions and prefixes."""
        content = self.settings.model_dump(include={"model", "dimensions", "query_prefix", "document_prefix"})
        return json.dumps({"url": self._endpoint.sha256, **content}, sort_keys=True)

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d) float32.

        Raises:
            AuditError: the endpoint gave no answer, again and again.
        """
        return self._embed([self.settings.query_prefix + text for text in texts])

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d) float32; errors as in :meth:`queries`."""
        return self._embed([self.settings.document_prefix + text for text in texts])

    def _embed(self, texts: Sequence[str]) -> FloatMatrix:
        size = self.settings.texts
        return np.concatenate([self._request(texts[start : start + size]) for start in range(0, len(texts), size)])

    def _request(self, texts: Sequence[str]) -> FloatMatrix:
        body: dict[str, Any] = {"model": self.settings.model, "input": [text or BLANK for text in texts]}
        if self.settings.dimensions:
            body["dimensions"] = self.settings.dimensions
        vectors, _ = self._endpoint.ask(lambda content: _vectors(content, len(texts)), json=body)
        return vectors


class EmbeddingsEncoder:
    """The same as an :class:`~safe_retrieval.types.Encoder`: rows are scaled to unit norm.

    Args:
        client: asks the endpoint.
    """

    def __init__(self, client: EmbeddingsClient) -> None:
        self._client = client

    @property
    def name(self) -> str:
        """The model's."""
        return self._client.settings.model

    @property
    def space(self) -> str:
        """Fingerprint of :attr:`EmbeddingsClient.identity`."""
        return f"sha256:{hashlib.sha256(self._client.identity.encode()).hexdigest()}"

    @cached_property
    def dimension(self) -> int:
        """Length of a vector; asks for one where the settings do not say."""
        return self._client.settings.dimensions or int(self._client.queries([BLANK]).shape[1])

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; there is no verdict. ``batch_size`` and ``progress`` are the endpoint's affair."""
        return QueryEncoding(self.encode_queries(texts, batch_size=batch_size, progress=progress), None)

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """(n, d) float32, unit norm."""
        del batch_size, progress
        return unit_rows(self._client.queries(texts))

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """(n, d) float32, unit norm."""
        del batch_size, progress
        return unit_rows(self._client.documents(texts))


def _vectors(content: Any, count: int) -> FloatMatrix:
    """The vectors of an answer, by their index."""
    try:
        rows = sorted(content["data"], key=lambda row: int(row["index"]))
        indices = [int(row["index"]) for row in rows]
        vectors = np.asarray([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswerError(f"expected data with index and embedding for each text: {error!r}") from error
    if indices != list(range(count)) or vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise NoAnswerError(f"expected {count} vectors of finite numbers, got {len(indices)}")
    return vectors
