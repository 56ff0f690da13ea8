"""Other people's embeddings and vectors: as an encoder of ours, and a look at whose vectors they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_safe_retrieval.embeddings import SafeRetrievalEmbeddings
from safe_retrieval.encoder.input import unit_rows
from safe_retrieval.errors import InputError
from safe_retrieval.models import catalog
from safe_retrieval.models.record import ModelKind
from safe_retrieval.types import Encoder, FloatMatrix, QueryEncoding

SAMPLE = 8
"""Documents that are embedded again to see whether stored vectors are an encoder's."""

AGREEMENT = 0.98
"""Smallest median cosine of stored vectors to an encoder's own.

One model gives 1 up to its number format and to white space that some classes replace; two models of one size give
about 0. The median, since a text may have been embedded with a header that is not stored.
"""

PROBES = ("The ferry leaves at nine.", "Table salt is sodium chloride.", "Who wrote the Iliad?")
"""What embeddings are compared by where nothing is stored yet."""

_SPACE = "langchain:"


class EmbeddingsEncoder:
    """Any LangChain embeddings as an :class:`~safe_retrieval.types.Encoder` without a refusal verdict.

    Args:
        embeddings: what embeds; a probe finds out how long its vectors are.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self._dimension = len(embeddings.embed_query(PROBES[0]))

    @property
    def name(self) -> str:
        """Class and, where it says so, model."""
        kind, model = type(self.embeddings), model_of(self.embeddings)
        return kind.__qualname__ if model is None else f"{kind.__qualname__} {model}"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def space(self) -> str:
        """A name, not a fingerprint: what such an object computes cannot be hashed."""
        return f"{_SPACE}{type(self.embeddings).__module__}.{self.name}"

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; there is no verdict."""
        return QueryEncoding(self.encode_queries(texts, batch_size=batch_size, progress=progress), None)

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,  # noqa: ARG002  # the object's own affair
        progress: bool | None = None,  # noqa: ARG002  # the object's own affair
    ) -> FloatMatrix:
        """Encode queries; (n, d) float32, scaled to unit norm."""
        return as_rows([self.embeddings.embed_query(text) for text in texts], self.dimension)

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 32,  # noqa: ARG002  # the object's own affair
        progress: bool | None = None,  # noqa: ARG002  # the object's own affair
    ) -> FloatMatrix:
        """Encode documents; (n, d) float32, scaled to unit norm."""
        return as_rows(self.embeddings.embed_documents(list(texts)) if texts else [], self.dimension)


def document_encoder(embeddings: Embeddings) -> Encoder:
    """The document side of embeddings, as an encoder.

    Raises:
        ModelError: it cannot be had.
    """
    if isinstance(embeddings, SafeRetrievalEmbeddings):
        return embeddings.documents_by
    return EmbeddingsEncoder(embeddings)


def model_of(embeddings: Embeddings | None) -> str | None:
    """What model embeddings say they are, where they say so."""
    given = (getattr(embeddings, attribute, None) for attribute in ("model_name", "model"))
    return next((value for value in given if isinstance(value, str)), None)


def encoder_of(embeddings: Embeddings | None) -> str:
    """Name of the document encoder that embeddings say they are, or else of the default one.

    They may say anything: whoever relies on it compares vectors.
    """
    record = catalog.find(model_of(embeddings) or "")
    return record.name if record and record.kind is ModelKind.SENTENCE_ENCODER else catalog.DEFAULT_DOCUMENT_ENCODER


def is_named_space(space: str) -> bool:
    """Whether a space is known by a name alone, so that vectors have to be compared."""
    return space.startswith(_SPACE)


def as_rows(vectors: Any, dimension: int | None = None) -> FloatMatrix:
    """Lists of floats as (n, d) float32 of unit norm.

    Raises:
        InputError: they are not of one length, or of another than ``dimension``, or one has no direction.
    """
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected vectors of one length: {error}") from error
    if not len(rows):
        return np.empty((0, dimension or 0), dtype=np.float32)
    if rows.ndim != 2 or (dimension is not None and rows.shape[1] != dimension):
        raise InputError(f"expected vectors of {dimension or 'some'} numbers, got an array of shape {rows.shape}")
    return unit_rows(rows)


def agreement(encoder: Encoder, texts: Sequence[str], vectors: Any) -> float:
    """Median cosine of vectors to those that an encoder gives the same texts; 0 if they differ in length.

    Raises:
        InputError: there are no texts.
    """
    if not texts:
        raise InputError("expected at least one text to compare vectors by, got none")
    theirs = as_rows(vectors)
    if theirs.shape[1] != encoder.dimension:
        return 0.0
    ours = encoder.encode_documents(list(texts), progress=False)
    return float(np.median(np.einsum("nd,nd->n", ours, theirs)))
