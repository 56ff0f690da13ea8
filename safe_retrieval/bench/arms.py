"""The arms as records: how a query becomes a ranking, and whose vectors the documents have.

Everything that decides an arm stands in its record, so a result names it whole; models and the adapter come from the
command line and are recorded beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from safe_retrieval.bench.tasks import TaskKind
from safe_retrieval.encoder.blend import BlendWeight
from safe_retrieval.errors import InputError
from safe_retrieval.retrieval.guard import DEFAULT_THRESHOLD


class QuerySide(StrEnum):
    """What turns a query into a vector."""

    TEACHER = "teacher"
    """The document encoder itself."""
    RESPONSE = "response"
    """The response encoder, one forward pass."""
    BLEND = "blend"
    """Response and teacher vectors mixed."""
    HYDE = "hyde"
    """The backbone's generated answer, by the teacher."""
    ECHO = "echo"
    """The backbone's states over the text's second copy."""
    POOLED = "pooled"
    """The backbone's states over the text, averaged."""
    NONE = "none"
    """No vector: words alone."""


class DocumentSide(StrEnum):
    """Whose vectors the documents have."""

    TEACHER = "teacher"
    """The teacher's: asymmetric, and the usual index."""
    QUERY = "query"
    """Those of the query's own encoder: symmetric."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One retriever.

    Attributes:
        query: what turns a query into a vector.
        documents: whose vectors the documents have.
        weight: of the response vector in a blend; ``None`` is the adapter's own.
        gate: refusal probability from which nothing is returned; ``None`` is no gate.
        samples: answers generated a query.
        include_query: average the query's own vector into generated answers.
        lexical: BM25, alone or fused with the vectors by reciprocal rank.
        instructed: put the task's instruction before the query.
    """

    name: str
    query: QuerySide
    documents: DocumentSide = DocumentSide.TEACHER
    weight: BlendWeight | None = None
    gate: float | None = None
    samples: int = 1
    include_query: bool = False
    lexical: bool = False
    instructed: bool = False

    @property
    def generative(self) -> bool:
        """Whether the backbone reads the query as something to answer, so that an instruction means something to it."""
        return self.query in {QuerySide.RESPONSE, QuerySide.BLEND, QuerySide.HYDE}

    @property
    def needs_verdict(self) -> bool:
        """Whether a response encoder has to judge the query beside what encodes it."""
        return self.gate is not None and self.query not in {QuerySide.RESPONSE, QuerySide.BLEND}

    @property
    def needs_adapter(self) -> bool:
        """Whether it cannot run without a response adapter."""
        return self.query in {QuerySide.RESPONSE, QuerySide.BLEND} or self.gate is not None

    def asked(self, texts: Sequence[str], instruction: str) -> list[str]:
        """What the arm's own encoder reads of queries: the instruction before each, where it means something to it."""
        return [f"{instruction} {text}" for text in texts] if instruction and self.generative else list(texts)

    def supports(self, kind: TaskKind) -> bool:
        """Whether a task of that kind can be put to it: without vectors, or with a gate, there is only retrieval."""
        if kind in {TaskKind.HARM, TaskKind.RETRIEVAL}:
            return True
        return self.query is not QuerySide.NONE and not self.lexical and self.gate is None

    def record(self) -> dict[str, Any]:
        """JSON-serialisable, for results."""
        record = asdict(self)
        record["weight"] = None if self.weight is None else self.weight._asdict()
        return record


def _fixed(share: float) -> BlendWeight:
    return BlendWeight(answered=share, refused=share)


BASELINE = "teacher"
"""What all other arms are compared with."""

CEILING = "hyde"
"""What the response encoder foresees, really generated."""

_BLEND = BlendWeight()

_ALL = (
    Arm(BASELINE, QuerySide.TEACHER),
    Arm("response", QuerySide.RESPONSE),
    Arm("response-instructed", QuerySide.RESPONSE, instructed=True),
    Arm("response-symmetric", QuerySide.RESPONSE, DocumentSide.QUERY),
    Arm("mean-25", QuerySide.BLEND, weight=_fixed(0.25)),
    Arm("mean-50", QuerySide.BLEND, weight=_fixed(0.5)),
    Arm("mean-75", QuerySide.BLEND, weight=_fixed(0.75)),
    Arm("blend", QuerySide.BLEND),
    Arm("blend-0", QuerySide.BLEND, weight=_BLEND._replace(answered=0.0)),
    Arm("blend-40", QuerySide.BLEND, weight=_BLEND._replace(answered=0.4)),
    Arm("blend-early", QuerySide.BLEND, weight=_BLEND._replace(middle=0.25)),
    Arm("gated", QuerySide.BLEND, gate=DEFAULT_THRESHOLD),
    Arm("gated-25", QuerySide.BLEND, gate=0.25),
    Arm("gated-50", QuerySide.BLEND, gate=0.5),
    Arm("gated-75", QuerySide.BLEND, gate=0.75),
    Arm("gated-teacher", QuerySide.TEACHER, gate=DEFAULT_THRESHOLD),
    Arm("gated-response", QuerySide.RESPONSE, gate=DEFAULT_THRESHOLD),
    Arm(CEILING, QuerySide.HYDE),
    Arm("hyde-4", QuerySide.HYDE, samples=4),
    Arm("hyde-4-query", QuerySide.HYDE, samples=4, include_query=True),
    Arm("echo", QuerySide.ECHO, DocumentSide.QUERY),
    Arm("pooled", QuerySide.POOLED, DocumentSide.QUERY),
    Arm("bm25", QuerySide.NONE, lexical=True),
    Arm("hybrid-teacher", QuerySide.TEACHER, lexical=True),
    Arm("hybrid-response", QuerySide.RESPONSE, lexical=True),
    Arm("hybrid-blend", QuerySide.BLEND, lexical=True),
    Arm("hybrid-gated", QuerySide.BLEND, gate=DEFAULT_THRESHOLD, lexical=True),
)

ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _ALL}
"""Every arm by name."""

FAST_ARMS = tuple(arm.name for arm in _ALL if arm.query is not QuerySide.HYDE and arm.documents is DocumentSide.TEACHER)
"""Those that neither generate nor run the backbone over the whole corpus."""


def find_arm(name: str) -> Arm:
    """An arm by name.

    Raises:
        InputError: there is none of that name; the message lists them.
    """
    if name not in ARMS:
        raise InputError(f"expected an arm out of {', '.join(ARMS)}, got {name!r}")
    return ARMS[name]
