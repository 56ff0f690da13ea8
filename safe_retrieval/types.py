"""What the floors above agree on: arrays, encoders, retrievers and what they return.

Retrieval, audit, benchmarks and the adapters for other frameworks depend on these Protocols alone, so any encoder or
retriever that has these few methods can stand in for ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatMatrix: TypeAlias = NDArray[np.float32]
"""(n, d) float32."""

FloatVector: TypeAlias = NDArray[np.float32]
"""(n,) float32."""

Metadata: TypeAlias = Mapping[str, Any]
"""JSON-serialisable values by name."""


class QueryEncoding(NamedTuple):
    """What one forward pass says about a batch of queries.

    Attributes:
        vectors: (n, d) float32, rows of unit norm.
        refusal: (n,) float32 in [0, 1], the calibrated probability that the backbone would refuse to answer; ``None``
            from an encoder that has no such verdict.
    """

    vectors: FloatMatrix
    refusal: FloatVector | None


@runtime_checkable
class Encoder(Protocol):
    """Text to unit vectors.

    All methods return float32 rows of unit norm, in input order, whatever the batch size. ``progress=None`` shows a
    bar on stderr from 500 texts up.
    """

    @property
    def name(self) -> str:
        """A name for people, for example ``all-minilm-l6-v2``."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def space(self) -> str:
        """Fingerprint of the vector space that *queries* land in.

        Two encoders whose ``space`` is equal can be used on the two sides of one index: a response encoder has the
        space of its teacher, so it can ask an index that the teacher built.
        """

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        """Encode queries; (n, d) vectors and, where the encoder has one, the refusal probability (n,)."""

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode queries; (n, d) float32, unit norm."""

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None
    ) -> FloatMatrix:
        """Encode documents; (n, d) float32, unit norm."""


@dataclass(frozen=True, slots=True)
class Document:
    """One passage of a corpus. ``text`` is what is shown; title and text are what is embedded (see ``content``)."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)

    @property
    def content(self) -> str:
        """Title and text as embedded and as indexed lexically: BEIR's convention, title, a space, text."""
        return f"{self.title} {self.text}".strip()


class Hit(NamedTuple):
    """One search result: external document id and score (inner product of unit vectors, or BM25)."""

    id: str
    score: float


@runtime_checkable
class PartReader(Protocol):
    """An encoder whose verdict is on the beginning of a text that is too long for it."""

    def as_read(self, texts: Sequence[str]) -> list[str]:
        """The part of each text that is judged."""


class GateAction(StrEnum):
    """What a retriever does with a query that the backbone would refuse."""

    ALLOW = "allow"
    """Return the hits as if there were no gate."""
    FLAG = "flag"
    """Return the hits, marked."""
    EMPTY = "empty"
    """Return nothing."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What a retriever returns for one query.

    Attributes:
        hits: best first; ties by document position in the index.
        refusal: calibrated refusal probability of the query, or ``None`` where the arm has no verdict.
        flagged: whether the refusal gate fired (``hits`` is empty then if the gate's action is ``empty``).
    """

    hits: tuple[Hit, ...]
    refusal: float | None = None
    flagged: bool = False


@runtime_checkable
class Retriever(Protocol):
    """Queries to hits. The audit asks nothing else of what it audits."""

    @property
    def name(self) -> str:
        """A name for people, for example ``gated``."""

    def retrieve(self, queries: Sequence[str], *, k: int = 10) -> list[Retrieval]:
        """One :class:`Retrieval` a query, in input order, with at most ``k`` hits."""
