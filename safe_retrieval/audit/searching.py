"""What the audit asks of a retriever that brings its own passages: a production index, a store, an endpoint.

A :class:`Searcher` is one way to reach such a retriever. It returns what the retriever returned, in its own ids and
scores; what that means for the figures is the business of :mod:`safe_retrieval.audit.external`. Nothing here writes to
what is audited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from safe_retrieval.audit.encodings import EncodingCache
from safe_retrieval.audit.hazards import Hazard, shown
from safe_retrieval.errors import AuditError
from safe_retrieval.types import Encoder, FloatMatrix, QueryEncoding


class Holds(StrEnum):
    """What passages the audited retriever holds."""

    OWN = "own"
    """Its own; the probes' passages are overlaid at query time where scores can be merged."""
    PROBES = "probes"
    """Exactly those of the probe set, put in by whoever set it up for the audit."""


class Found(NamedTuple):
    """One passage that a retriever returned.

    Attributes:
        id: as it names the passage; ``""`` where it names none.
        score: as it scores it; ``None`` where it gives no score.
        text: of the passage; ``None`` where it gives none, so that it can be recognised by its id alone.
        harmful: whether it labels the passage as harmful.
        hazard: the category it gives, where it labels it so.
    """

    id: str
    score: float | None = None
    text: str | None = None
    harmful: bool = False
    hazard: Hazard = Hazard.UNMAPPED


class Answer(NamedTuple):
    """What a retriever returned for one query.

    Attributes:
        hits: best first.
        seconds: it took; of an endpoint that had to be asked several times, the last time alone.
        refusal: its refusal probability, where it gives one.
        flagged: whether it refused.
    """

    hits: tuple[Found, ...]
    seconds: float
    refusal: float | None = None
    flagged: bool = False


def hazard_named(value: object, where: str) -> Hazard:
    """The hazard that a retriever's label names; unmapped without one.

    Raises:
        AuditError: it is none of the twelve.
    """
    if value is None:
        return Hazard.UNMAPPED
    try:
        return Hazard(str(value))
    except ValueError as error:
        raise AuditError(f"{where}: expected a hazard of {', '.join(Hazard)}, got {shown(value)}") from error


class Vectors(Protocol):
    """The vectors that a retriever compares, so that probe passages can stand beside its own.

    Rows are float32 and finite; of what length they are is the retriever's affair.
    """

    @property
    def identity(self) -> str:
        """Everything that decides the vectors besides the texts."""

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d), as the retriever embeds queries."""

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d), as the retriever embedded its passages."""


class Searcher(Protocol):
    """One retriever with passages of its own."""

    @property
    def batch(self) -> int:
        """Queries that are asked at once; a cut audit asks at most so many again."""

    @property
    def has_gate(self) -> bool:
        """Whether it can refuse."""

    @property
    def vectors(self) -> Vectors | None:
        """What it compares; ``None`` where nobody knows, so that nothing can be merged."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What the report says of it: JSON-serialisable, complete, and without secrets."""

    def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """One answer a query, in input order, each with the best ``k`` passages, or fewer where it gives fewer.

        Raises:
            AuditError: it cannot be reached, or what came is no answer; the message says what came and how to mend it.
        """


@dataclass(frozen=True)
class EncoderVectors:
    """An encoder of ours as :class:`Vectors`; rows have unit norm."""

    encoder: Encoder

    @property
    def identity(self) -> str:
        """The encoder's space."""
        return f"encoder {self.encoder.space}"

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d) float32, unit norm."""
        return self.encoder.encode_queries(texts, progress=False)

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d) float32, unit norm."""
        return self.encoder.encode_documents(texts, progress=False)


class CachedVectors:
    """Vectors kept in the report folder's cache, so that a cut audit does not embed twice.

    Args:
        vectors: what is kept.
        cache: where.
        label: who embeds, for the progress display.
    """

    def __init__(self, vectors: Vectors, cache: EncodingCache, label: str) -> None:
        self._vectors, self._cache, self._label = vectors, cache, label

    @property
    def identity(self) -> str:
        """Of what is kept."""
        return self._vectors.identity

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d), as what is kept gives them."""
        return self._encode("queries", self._vectors.queries, texts)

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(n, d), as what is kept gives them."""
        return self._encode("passages", self._vectors.documents, texts)

    def _encode(self, side: str, embed: Callable[[Sequence[str]], FloatMatrix], texts: Sequence[str]) -> FloatMatrix:
        encoded = self._cache.encode(
            f"{side}, {self._label}",
            f"{self.identity} {side}",
            lambda chunk: QueryEncoding(embed(chunk), None),
            texts,
        )
        return encoded.encoding.vectors
