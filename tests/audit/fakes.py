"""A probe set small enough to count by hand, and encoders that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from safe_retrieval.audit.hazards import Hazard
from safe_retrieval.audit.models import RecordedEncoder
from safe_retrieval.audit.probes import Probe, ProbeKind, ProbeSet
from safe_retrieval.encoder.blend import BlendWeight
from safe_retrieval.errors import AdapterError
from safe_retrieval.types import Document, Hit, QueryEncoding, Retrieval
from tests.support.encoders import HashEncoder


def document(identifier: str, *, harmful: bool, hazard: str | None = None) -> Document:
    metadata = {"harmful": harmful, "hazard": hazard, "kind": "harmful-standin" if harmful else "benign", "source": "t"}
    return Document(identifier, f"passage words of {identifier} zyxw", metadata=metadata)


def make_probe_set() -> ProbeSet:
    """Four harmful, four benign and two sensitive queries over eight documents."""
    harmful = [
        Probe("h1", "request wording one qqq", ProbeKind.HARMFUL, Hazard.CBRNE, "b1"),
        Probe("h2", "request wording two qqq", ProbeKind.HARMFUL, Hazard.CBRNE),
        Probe("h3", "request wording three qqq", ProbeKind.HARMFUL, Hazard.HATE),
        Probe("h4", "request wording four qqq", ProbeKind.HARMFUL),
    ]
    benign = [Probe(f"b{i}", f"benign wording {i} qqq", ProbeKind.BENIGN) for i in (1, 2, 3, 4)]
    sensitive = [Probe(f"s{i}", f"sensitive wording {i} qqq", ProbeKind.SENSITIVE) for i in (1, 2)]
    documents = [document(f"H{i}", harmful=True, hazard="cbrne" if i < 3 else "hate") for i in (1, 2, 3)]
    documents += [document(f"B{i}", harmful=False) for i in (1, 2, 3, 4)] + [document("S1", harmful=False)]
    qrels = {"h1": {"H1": 1}, "h2": {"H2": 1}, "h3": {"H3": 1}}
    qrels |= {f"b{i}": {f"B{i}": 1} for i in (1, 2, 3, 4)} | {"s1": {"S1": 1}}
    return ProbeSet("tiny", "1.0", "0" * 64, tuple(documents), (*harmful, *benign, *sensitive), qrels)


@dataclass
class ScriptedRetriever:
    """Answers from a table of query text to ids; flags and verdicts too."""

    answers: dict[str, list[str]]
    name: str = "scripted"
    flagged: frozenset[str] = frozenset()
    refusal: dict[str, float] = field(default_factory=dict)

    def retrieve(self, queries: Sequence[str], *, k: int = 10) -> list[Retrieval]:
        return [
            Retrieval(
                tuple(Hit(identifier, 1.0 - rank / 10) for rank, identifier in enumerate(self.answers.get(query, []))),
                self.refusal.get(query),
                query in self.flagged,
            )
            for query in queries
        ]


def scripted(
    probe_set: ProbeSet,
    answers: dict[str, list[str]],
    *,
    flagged: Sequence[str] = (),
    refusal: dict[str, float] | None = None,
) -> ScriptedRetriever:
    """The same by probe id instead of text."""
    text = {probe.id: probe.text for probe in probe_set.queries}
    return ScriptedRetriever(
        {text[key]: ids for key, ids in answers.items()},
        flagged=frozenset(text[identifier] for identifier in flagged),
        refusal={text[identifier]: value for identifier, value in (refusal or {}).items()},
    )


class RecordingEncoder(HashEncoder):
    """Remembers the queries it was given."""

    def __init__(self, name: str = "fake", *, refused: Sequence[str] | None = None) -> None:
        super().__init__(name, dimension=64, space="fake-space", refused=refused)
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str], *, batch_size: int = 32, progress: bool | None = None) -> QueryEncoding:
        self.encoded += texts
        return super().encode(texts)


class FakeModels:
    """Encoders of one space; the response encoder and HyDE refuse what holds ``request``."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.blend_weight = BlendWeight()

    def _open(self, name: str, **options: Any) -> RecordedEncoder:
        self.opened.append(name)
        return RecordedEncoder(RecordingEncoder(name, **options), {f"{name}_encoder": {"name": name, "space": "fake"}})

    @cached_property
    def document(self) -> RecordedEncoder:
        return self._open("document")

    @cached_property
    def response(self) -> RecordedEncoder:
        return self._open("response", refused=["request"])

    @cached_property
    def hyde(self) -> RecordedEncoder:
        return self._open("hyde", refused=["request"])

    def check_adapter(self) -> None:
        pass


class NoAdapter(FakeModels):
    """Models without an adapter for them."""

    def check_adapter(self) -> None:
        raise AdapterError("no adapter is shipped for these")
