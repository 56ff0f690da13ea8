"""Encoders that need no model: deterministic vectors, so that tests can say what must come out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from safe_retrieval.types import Document, FloatMatrix, FloatVector, QueryEncoding


class HashEncoder:
    """Unit vectors that are the sum of one pseudo-random direction for each word.

    Texts that share words are near each other, equal texts are equal, and nothing depends on the batch.

    Args:
        refused: queries that hold one of these words have refusal probability 0.96, all others 0.1; ``None`` gives no
            verdict at all.
        delay: seconds that each call of ``encode_documents`` sleeps, to be interrupted in.
    """

    def __init__(
        self,
        name: str = "hash-encoder",
        *,
        dimension: int = 32,
        space: str | None = None,
        refused: Sequence[str] | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.space = space or f"hash:{dimension}"
        self.document_calls: list[list[str]] = []
        self.query_calls = 0
        # What a blend asks of a response encoder, which this stands in for as well.
        self.record = SimpleNamespace(blend_share=None, teacher=SimpleNamespace(name="the teacher"))
        self._refused = refused
        self._delay = delay

    def of(self, documents: Sequence[Document]) -> FloatMatrix:
        """Vectors of whole documents."""
        return self.encode_documents([document.content for document in documents])

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        return QueryEncoding(self.encode_queries(texts), self._refusal(texts))

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        self.query_calls += 1
        return self._vectors(texts)

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        self.document_calls.append(list(texts))
        time.sleep(self._delay)
        return self._vectors(texts)

    def _refusal(self, texts: Sequence[str]) -> FloatVector | None:
        if self._refused is None:
            return None
        hit = [any(word in text.lower() for word in self._refused) for text in texts]
        return np.where(hit, 0.96, 0.1).astype(np.float32)

    def _vectors(self, texts: Sequence[str]) -> FloatMatrix:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in [*text.lower().split(), ""]:
                vectors[row] += _direction(f"{self.dimension} {word}", self.dimension)
        unit: FloatMatrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)


@lru_cache(maxsize=4096)
def _direction(word: str, dimension: int) -> FloatVector:
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
