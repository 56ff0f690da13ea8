"""What can be audited: anything that answers queries with ranked document ids.

The audit sees a :class:`Target`: it asks the probes it wants to ask and says how long that took. Any
:class:`~safe_retrieval.types.Retriever` becomes one through :class:`RetrieverTarget`; arms that share encodings, so
that a slow forward pass is done once for all of them, are :class:`EncodedTarget`.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from safe_retrieval.audit.encodings import Encoded
from safe_retrieval.audit.probes import Probe, ProbeKind
from safe_retrieval.audit.results import Passage
from safe_retrieval.errors import InputError
from safe_retrieval.types import QueryEncoding, Retrieval, Retriever


class AuditArm(StrEnum):
    """The retrievers that every audit of ours can compare on one corpus."""

    INPUT = "input"
    """The query's own vector, by the document encoder: ordinary dense retrieval, the baseline."""
    OUTPUT = "output"
    """The response encoder alone: one forward pass, no gate."""
    BLEND = "blend"
    """Response and query vectors mixed by the refusal probability, no gate."""
    GATED = "gated"
    """The blended vector, and nothing at all for a query that the backbone would refuse."""
    HYDE = "hyde"
    """The response really generated, then embedded: slow, and the ceiling of what one pass can reach."""
    BM25 = "bm25"
    """Lexical retrieval, no model at all."""

    @property
    def needs_adapter(self) -> bool:
        """Whether it cannot run without a response adapter."""
        return self in {AuditArm.OUTPUT, AuditArm.BLEND, AuditArm.GATED}


class Answers(NamedTuple):
    """What a target returned, and what it cost.

    Attributes:
        probes: those that were asked, possibly a subset of what was offered.
        retrievals: one a probe, in the same order.
        encode_seconds: time spent on turning these probes into vectors, as measured when it was done.
        search_seconds: time spent on finding passages; for a closed retriever, all of its time.
        query_seconds: time of each probe, where they were asked one by one; ``None`` where they went as a batch.
        tokens: tokens that a language model generated for all of them; ``None`` where none does or nobody counted.
        own: passages among the hits that are not of the probe set but the target's own, by id.
        absent: passages of the probe set that the target could not have found, since it does not hold them; judgements
            on them do not count.
    """

    probes: tuple[Probe, ...]
    retrievals: tuple[Retrieval, ...]
    encode_seconds: float
    search_seconds: float
    query_seconds: tuple[float, ...] | None = None
    tokens: int | None = None
    own: Mapping[str, Passage] = MappingProxyType({})
    absent: frozenset[str] = frozenset()


class Target(Protocol):
    """One retriever under audit."""

    @property
    def name(self) -> str:
        """Its name in the report; unique among the targets of an audit."""

    @property
    def has_gate(self) -> bool:
        """Whether it can refuse a query. Without a gate, over-refusal is not measured rather than 0."""

    def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
        """Answer the probes with at most ``k`` passages each."""


@dataclass(frozen=True, slots=True)
class RetrieverTarget:
    """Any retriever, asked as its users ask it."""

    retriever: Retriever
    name: str
    has_gate: bool = False

    def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
        """Answer all probes; the whole time counts as search."""
        start = time.perf_counter()
        retrievals = tuple(self.retriever.retrieve([probe.text for probe in probes], k=k))
        return Answers(tuple(probes), retrievals, 0.0, time.perf_counter() - start)


class EncodedRetriever(Protocol):
    """The part of a dense retriever that takes vectors instead of texts."""

    def retrieve_encoded(self, encoding: QueryEncoding, *, k: int) -> list[Retrieval]:
        """One retrieval a row of ``encoding.vectors``."""


@dataclass(frozen=True, slots=True)
class EncodedTarget:
    """A dense arm whose encodings come from outside, usually from the cache that several arms share.

    Attributes:
        encode: texts to vectors and the seconds that took when it was done.
        limit: how many probes are asked at most, chosen by :func:`stratified`; ``None`` asks all.
        seed: of that choice.
    """

    name: str
    encode: Callable[[Sequence[str]], Encoded]
    retriever: EncodedRetriever
    has_gate: bool = False
    limit: int | None = None
    seed: int = 0

    def ask(self, probes: Sequence[Probe], *, k: int) -> Answers:
        """Encode and search; the retrievals carry the encoder's refusal probability."""
        chosen = tuple(probes) if self.limit is None else stratified(probes, self.limit, seed=self.seed)
        encoded = self.encode([probe.text for probe in chosen])
        start = time.perf_counter()
        retrievals = tuple(self.retriever.retrieve_encoded(encoded.encoding, k=k))
        return Answers(chosen, retrievals, encoded.seconds, time.perf_counter() - start, tokens=encoded.tokens)


def stratified(probes: Sequence[Probe], limit: int, *, seed: int) -> tuple[Probe, ...]:
    """At most ``limit`` probes, as evenly over the kinds as their numbers allow, in their given order.

    Even shares, not proportional ones: harm and benign recall are two figures that should be equally sure, whatever the
    mix of the probe set. A kind with fewer probes than its share gives the rest to the others.

    Raises:
        InputError: ``limit`` is below the number of kinds, so a kind would go unasked.
    """
    groups: defaultdict[ProbeKind, list[int]] = defaultdict(list)
    for position, probe in enumerate(probes):
        groups[probe.kind].append(position)
    if limit < len(groups):
        raise InputError(f"a subset of {limit} queries cannot hold all {len(groups)} kinds; ask for more")
    generator = random.Random(seed)  # noqa: S311 - a repeatable choice of probes, nothing secret
    chosen: list[int] = []
    left = limit
    smallest_first = sorted(groups.values(), key=len)
    for done, positions in enumerate(smallest_first):
        share = min(len(positions), left // (len(smallest_first) - done))
        chosen += generator.sample(positions, share)
        left -= share
    return tuple(probes[position] for position in sorted(chosen))
