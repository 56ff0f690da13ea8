"""What a probe set is: queries of three kinds, a corpus, which passage answers what, and where it all came from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from safe_retrieval.audit.beir import Qrels
from safe_retrieval.audit.hashes import text_sha256
from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.errors import InputError
from safe_retrieval.types import Document

UNKNOWN_LICENSE = "unknown"
"""Of a set whose licence nobody has stated."""


class ProbeKind(StrEnum):
    """What a query is there to measure."""

    HARMFUL = "harmful"
    """A request that a safe retriever should not serve: harm rate."""
    BENIGN = "benign"
    """An ordinary question: benign recall, the control beside every harm rate."""
    SENSITIVE = "sensitive"
    """Looks unsafe and is harmless: over-refusal."""


class PassageKind(StrEnum):
    """What a passage is there for; in the metadata of every document as ``kind``."""

    STAND_IN = "harmful-standin"
    """Stands for a harmful document: its topic and vocabulary, and nothing of use."""
    HARMFUL = "harmful"
    """A passage of a harmful set that was given as a folder: treat it as the real thing."""
    BENIGN = "benign"
    SENSITIVE_ANSWER = "sensitive-answer"
    """Answers a sensitive question; harmless."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One query of a probe set.

    Attributes:
        hazard: of a harmful request, its category. A benign twin or a sensitive question of our own set has the
            category that it borders on, so that pairs can be counted together; elsewhere ``Hazard.UNMAPPED``.
        twin: id of the probe in the same wording style on the other side of the line, or ``None``.
        source: name of the set it came from.
        license: of that set, as far as it is known.
    """

    id: str
    text: str
    kind: ProbeKind
    hazard: Hazard = Hazard.UNMAPPED
    twin: str | None = None
    source: str = ""
    license: str = UNKNOWN_LICENSE

    @property
    def sha256(self) -> str:
        """Hex digest of the text, by which reports name it."""
        return text_sha256(self.text)


class Placement(StrEnum):
    """Where a set's passages are when the target holds passages of its own."""

    OVERLAY = "overlay"
    """Beside the target's at query time, where its scores can be merged."""
    HELD = "held"
    """In the target already: the set's judgements are about the target's own corpus."""
    REFERENCE = "reference"
    """Nowhere: they are known harmful passages, to be recognised among what the target returns."""


@dataclass(frozen=True, slots=True)
class ProbeSource:
    """One set that probes came from.

    Attributes:
        name: the prefix of its ids.
        origin: where it was read: a path, a name on the hub, or the package.
        license: as far as it is known.
        sha256: hex digest over its passages, queries and judgements.
        probes: number by kind.
        passages: how many it brings.
        placement: where its passages are, of a target that holds its own.
    """

    name: str
    origin: str = field(compare=False)  # the same set wherever it lies
    license: str
    sha256: str
    probes: Mapping[str, int]
    passages: int
    placement: Placement = Placement.OVERLAY

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        probes: Sequence[Probe],
        qrels: Qrels,
        *,
        name: str,
        origin: str,
        license_: str,
        placement: Placement = Placement.OVERLAY,
    ) -> ProbeSource:
        """The record of a set that was read."""
        counts = Counter(probe.kind.value for probe in probes)
        sha256 = content_sha256(documents, probes, qrels)
        return cls(name, origin, license_, sha256, dict(counts), len(documents), placement)


class ProbePart(NamedTuple):
    """One set of probes, to be joined with others; ids carry the set's name."""

    source: ProbeSource
    documents: Sequence[Document]
    probes: Sequence[Probe]
    qrels: Qrels


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Queries, corpus and judgements of one audit.

    Attributes:
        sha256: over documents, queries and judgements in their order, independent of file format and compression.
        documents: metadata holds ``harmful`` (bool), ``kind`` (a :class:`PassageKind` value), ``hazard`` (a
            :class:`Hazard` value, ``None`` for what is not harmful) and ``source`` (the set it came from).
        qrels: relevance by query id, then document id. A query without judgements has no entry: a harmful set without
            qrels, or safe prompts that are only there for over-refusal.
        sources: the sets it is made of.
        held: ids of documents that a target with passages of its own holds already.
        reference: ids of documents that are there to be recognised among what it returns, and nothing else.
    """

    name: str
    version: str
    sha256: str
    documents: tuple[Document, ...]
    queries: tuple[Probe, ...]
    qrels: Qrels
    sources: tuple[ProbeSource, ...] = ()
    held: frozenset[str] = frozenset()
    reference: frozenset[str] = frozenset()

    def of_kind(self, kind: ProbeKind) -> tuple[Probe, ...]:
        """The queries of one kind, in their order."""
        return tuple(probe for probe in self.queries if probe.kind is kind)

    @property
    def harmful_ids(self) -> frozenset[str]:
        """Ids of the documents that nobody should be handed."""
        return frozenset(document.id for document in self.documents if document.metadata["harmful"])


def joined(parts: Sequence[ProbePart], *, version: str = "unversioned") -> ProbeSet:
    """Several sets as one; its name is theirs, joined by ``+``.

    Raises:
        InputError: an id is in two of them, or a name is used twice.
    """
    documents = tuple(document for part in parts for document in part.documents)
    probes = tuple(probe for part in parts for probe in part.probes)
    for what, ids in (
        ("set", [part.source.name for part in parts]),
        ("passage", [document.id for document in documents]),
        ("query", [probe.id for probe in probes]),
    ):
        repeated = next((each for each, count in Counter(ids).items() if count > 1), None)
        if repeated is not None:
            raise InputError(f"the {what} {repeated!r} comes twice among the probes; give the sets names of their own")
    qrels = {query: judged for part in parts for query, judged in part.qrels.items()}
    placed = {
        placement: frozenset(
            document.id for part in parts if part.source.placement is placement for document in part.documents
        )
        for placement in Placement
    }
    return ProbeSet(
        "+".join(part.source.name for part in parts),
        version,
        content_sha256(documents, probes, qrels),
        documents,
        probes,
        qrels,
        sources=tuple(part.source for part in parts),
        held=placed[Placement.HELD],
        reference=placed[Placement.REFERENCE],
    )


def content_sha256(
    documents: Iterable[Document], queries: Iterable[Probe], qrels: Mapping[str, Mapping[str, int]]
) -> str:
    """SHA-256 (hex) over documents, queries and judgements; their order counts, since ties are broken by position."""
    records: list[object] = [["d", doc.id, doc.title, doc.text, dict(doc.metadata)] for doc in documents]
    records += [["q", probe.id, probe.text, probe.kind, probe.hazard, probe.twin] for probe in queries]
    records += [["r", query, dict(qrels[query])] for query in sorted(qrels)]
    digest = hashlib.sha256()
    for record in records:
        # JSON in ASCII: unambiguous boundaries between fields, and lone surrogates have a byte form.
        digest.update(json.dumps(record, ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n")
    return digest.hexdigest()
